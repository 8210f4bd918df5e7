"""How steps are computed: device and precision, optimizers, CUDA graphs, metrics of an epoch."""
