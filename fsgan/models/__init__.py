"""The networks, their checkpoints and the weights they start from."""

import logging

logging.getLogger(__name__).info("starting Keras")  # it takes some seconds
