"The exercises of nbs/20_newton_schulz.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_cubic.verify(lambda r: (1.5, -0.5 / r**2, 0.), wrong=[lambda r: (1.5, -0.5, 0.), lambda r: (1., 0., 0.), lambda r: (1.5, -0.5 / r, 0.), lambda r: (1.5, -0.5 / r**2, .1)])

# %%
def solution_inverse_sqrt(A):
    I = torch.eye(len(A), dtype=A.dtype); R = I
    for a, b, c in (CUBIC,) * 20:
        B = R @ A @ R; R = (a * I + b * B + c * B @ B) @ R
    return R
check_inverse_sqrt.verify(solution_inverse_sqrt, wrong=[torch.linalg.inv, lambda A: A, lambda A: torch.linalg.cholesky(A), lambda A: polar_express(A)])
