"""What distinguishes search methods from one another: how logits are relaxed to weights."""
