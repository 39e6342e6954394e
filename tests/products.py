"What torch's matrix products promise on this processor."
import torch


def same_product_alone(shape, dtype):
    "Whether torch multiplies a matrix to the same bits alone and in a stack: some of MKL's routines for float32 do not."
    X = torch.randn(2, *shape if shape[0] <= shape[1] else shape[::-1]).to(dtype)
    def products(X):
        A = X @ X.mT
        return A, torch.baddbmm(A, A, A, beta=0.7, alpha=0.3), torch.baddbmm(X, A, X, beta=0.7), torch.baddbmm(X.mT, X.mT, A, beta=0.7)
    return all(torch.equal(x[:1], y) for x, y in zip(products(X), products(X[:1])))
