"The exercises of nbs/46_chat_eval.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def solution(h):
    n = 1
    while (wilson(n / 2, n)[1] - wilson(n / 2, n)[0]) / 2 > h: n += 1
    return n
check_questions.verify(solution, wrong=[lambda h: math.ceil(0.25 * (1.96 / h)**2), lambda h: round(1 / h**2), lambda h: solution(2 * h)])

# %%
check_sign.verify(sign_solution, wrong=[lambda a, b: sign_solution(a, b) / 2, lambda a, b: abs(sum(a) - sum(b)) / len(a), lambda a, b: 2 * 0.5**len(a)])
