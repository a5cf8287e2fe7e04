"""The networks, their checkpoints and the weights they start from."""

import logging
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notes on itself
logging.getLogger(__name__).info("starting Keras")  # it takes some seconds
