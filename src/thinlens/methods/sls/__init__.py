"""SLS (Oh et al., "Attentive Fine-Grained Structured Sparsity for Image Restoration", CVPR 2022).

Where each equation is:

- 1 to 3, pruning units and masked weights: `sparsity.rank_mask.RankMask`
- 4, ordered priorities: `sparsity.rank_mask.ordered_priorities`
- 5 and 6, cost and loss: `methods.sls.search.SlsSearch.cost`, `SlsSearch.loss`
- 7, annealing of lambda: `methods.sls.annealing.Annealing.update`
- 8, per-tile routing (section 3.6): `adaptive.rule.equation_8`
"""
