"""What the fast code computes, written the way the papers write it.

Reading order:

- `reference.supernet`: the network that a search trains, one module for each candidate operation of each edge;
- `reference.bilevel`: the two kinds of steps that a search alternates;
- `reference.network`: the network of a genotype, one edge after another.

`nas.supernet`, `nas.methods.bilevel` and `nas.networks.cells` compute the same faster, in a different order. The
tests compare both in float64, and the benchmarks measure the speedup. Only the order of the work is implemented a
second time here: the operations (`spaces.ops`) and the macro structure (`nas.networks.macro`) are shared with the fast
code, and have tests of their own against PyTorch's modules. Nothing that is installed imports this package.
"""
