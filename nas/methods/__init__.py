"""What distinguishes search methods: the bilevel steps, and how logits are relaxed to weights."""
