# The values of R in tests/test_fit_measures.py: R 4.2.2, psych 2.2.9.  factanal is run to its end.
suppressMessages(library(psych))
options(digits = 12)
measures <- function(S, k, N) {
  fit <- factanal(covmat = list(cov = S, n.obs = N, center = rep(0, ncol(S))), factors = k,
                  rotation = "none",
                  control = list(nstart = 3, opt = list(factr = 1e2, pgtol = 0, maxit = 5000)))
  stats <- fa.stats(r = cov2cor(S), f = unclass(fit$loadings), n.obs = N, alpha = .1)
  print(c(fit$STATISTIC, fit$dof, fit$PVAL, fit$criteria[1], stats$RMSEA, stats$TLI, stats$rms,
          stats$null.chisq))
}
measures(ability.cov$cov, 1, 112)
measures(ability.cov$cov, 2, 112)
measures(Harman74.cor$cov, 4, 145)
measures(Harman74.cor$cov, 5, 145)
