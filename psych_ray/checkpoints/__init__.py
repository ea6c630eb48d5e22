"""What is known of a checkpoint before it is loaded: cards, hub, files, sizes. No torch."""
