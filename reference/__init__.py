"""What the fast code computes, written as the papers write it.

Read it in this order:

- `reference.supernet`: the network that a search trains, one module for each candidate operation of each edge;
- `reference.bilevel`: the two kinds of steps that a search alternates;
- `reference.network`: the network of a genotype, one edge after another.

`nas.supernet`, `nas.methods.bilevel` and `nas.networks.cells` compute the same in another order, and faster. The tests
compare both in float64, and the benchmarks measure how much faster. Only the order of the work is written anew here:
the operations (`spaces.ops`) and the macro structure (`nas.networks.macro`) are those of the fast code, and have tests
of their own against PyTorch's modules. Nothing that is installed imports this package.
"""
