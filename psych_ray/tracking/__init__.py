"""Who is told how a sweep goes: the terminal and Weights & Biases."""
