"""How a replica holds and runs the weights: token ids in, likelihoods of chosen tokens out."""
