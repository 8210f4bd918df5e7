"""What a genotype or a name becomes: evaluation networks, hand-made networks, their files and their cost."""
