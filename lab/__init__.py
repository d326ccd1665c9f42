"""What the commands share: lists, images, preprocessing, the store, checkpoints, metrics, figures, the sample."""
