"""The paper's experiments (arXiv 2405.14089) on MNIST and Fashion-MNIST: what a learned canonicalizer is worth.

    python -m paper [--quick] [--only TEXT] [--threads 2]     # with this folder's parent on PYTHONPATH
    python -m paper --report                                  # the page from the stored results alone

`make paper` does the former, `make paper PAPER=--quick` in a few minutes. `plan.py` lists all runs. Each leaves a
small file in `results`, and `docs/does_it_work.md` is made of those. A run that was killed goes on from its last epoch,
to the same weights and the same figures as if nothing had happened.
"""
