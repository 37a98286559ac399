#include "grpo_accel/estimate/risk.h"

#include <math.h>

ga_risk ga_risk_make(double alpha, double gamma) {
    return (ga_risk){.alpha = alpha, .gamma = gamma, .level = alpha};
}

void ga_risk_learn(ga_risk *risk, double loss) {
    risk->level += risk->gamma * (risk->alpha - loss);
}

void ga_loss_add(ga_loss_sums *sums, double weight, bool lost) {
    sums->weight += weight;
    sums->squares += weight * weight;
    sums->lost += lost ? weight : 0.0;
}

double ga_loss_share(const ga_loss_sums *sums) {
    return sums->weight > 0 ? sums->lost / sums->weight : (double)NAN;
}

double ga_risk_bound(const ga_loss_sums *sums) {
    if (!(sums->weight > 0)) {
        return 1.0;
    }
    const double n = sums->weight * sums->weight / sums->squares;
    return n / (n + 1) * (sums->lost / sums->weight) + 1 / (n + 1);
}

bool ga_risk_allows(const ga_risk *risk, const ga_loss_sums *sums) {
    return ga_risk_bound(sums) <= risk->level;
}
