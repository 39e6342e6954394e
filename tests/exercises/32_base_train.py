"The exercises of nbs/32_base_train.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_steps.verify(lambda n, r, b: max(1, int(n * r // b)), wrong=[lambda n, r, b: int(n * r // b), lambda n, r, b: max(1, round(n * r / b)), lambda n, r, b: max(1, n // b)])

# %%
check_suspicious.verify(lambda l, v: abs(l / math.log(v) - 1) > 0.02, wrong=[lambda l, v: l > math.log(v) * 1.02, lambda l, v: abs(l / math.log2(v) - 1) > 0.02, lambda l, v: abs(l - math.log(v)) > 0.02])

# %%
check_largest_pass.verify(lambda rows, fixed, per_row, limit: max((d for d in range(1, rows + 1) if rows % d == 0 and fixed + d * per_row <= limit), default=0),
    wrong=[lambda rows, fixed, per_row, limit: int((limit - fixed) // per_row), lambda rows, fixed, per_row, limit: min(rows, int((limit - fixed) // per_row)),
           lambda rows, fixed, per_row, limit: max((2**k for k in range(9) if 2**k <= rows and fixed + 2**k * per_row <= limit), default=0),
           lambda rows, fixed, per_row, limit: max((d for d in range(1, rows + 1) if rows % d == 0 and fixed + d * per_row < limit), default=0),
           lambda rows, fixed, per_row, limit: max((d for d in range(1, rows + 1) if rows % d == 0 and fixed + d * per_row <= limit), default=1)])
