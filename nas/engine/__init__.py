"""How steps are computed: device and precision, optimizers, CUDA graphs, figures of an epoch."""
