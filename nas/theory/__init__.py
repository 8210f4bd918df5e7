"""Optimization algorithms as networks, and networks trained as an optimization problem.

    activations.py   activations Phi with their antiderivatives Psi (Table 1)
    iterations.py    the algorithms: gradient descent, heavy ball, accelerated gradient descent, ADMM (eq. (1)-(6))
    objectives.py    the objective whose gradient step is a layer (Lemma 1)
    networks.py      the networks that the algorithms become (eq. (7), (11)-(14))
    equivalence.py   check: network = algorithm on that objective
    rates.py         measurement: iterations to a tolerance against the condition number
    simulation.py    experiment: regression of random pairs (Table 2)
    lpom/            lifted proximal operator machines: training without gradients through layers

Equations and tables are those of H. Li, Y. Yang, D. Chen, Z. Lin: Optimization Algorithm Inspired Deep Neural
Network Structure Design (ACML 2018, and its journal extension). `python -m nas.theory --help` lists the
experiments.
"""
