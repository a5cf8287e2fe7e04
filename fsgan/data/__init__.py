"""From footage to batches: crops, masks, augmentation, curation."""
