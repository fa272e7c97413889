"""What `train.py` puts together: one training, from its job to its weights."""
