"The exercises of nbs/94_pictures.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_readable.verify(lambda ink, grounds: all(contrast(ink, g) >= 4.5 for g in grounds),
                      wrong=[lambda ink, grounds: any(contrast(ink, g) >= 4.5 for g in grounds), lambda ink, grounds: True,
                             lambda ink, grounds: all(contrast(ink, g) >= 3 for g in grounds),
                             lambda ink, grounds: all(luminance(ink) / (luminance(g) + 1e-9) >= 4.5 for g in grounds)])

# %%
check_finished.verify(lambda rank, W: (rank + 1) % W,
                      wrong=[lambda rank, W: rank, lambda rank, W: rank + 1, lambda rank, W: (rank - 1) % W, lambda rank, W: W - 1])
