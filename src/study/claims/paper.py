"""The claims of the paper, and what this book adds to them, each with its criterion."""

from study.claims import gain, larger, measured, natural, noise, questions, restoring
from study.claims.evidence import Evidence
from study.claims.verdicts import Claim, Finding, judge

__all__ = ["CLAIMS", "judge_all"]

CLAIMS = (
    Claim("monotone", 1, ("edge_of_stability", "fig-eos-mse"),
        r"Below $2/\eta$ gradient descent is stable, and its loss falls at each step",
        "no step before the edge, and none of a stable run, raises the loss, in any seed; "
        "{prf:ref}`thm-Q1` and {prf:ref}`thm-Q2` prove it for quadratics and smooth losses",
        measured.monotone),
    Claim("edge", 1, ("edge_of_stability", "fig-eos-levels"),
        r"Networks train past that limit, at the edge, $\lambda_1 \approx 2/\eta$",
        r"every run arrives; its exponent is nearer to $-1$ (the threshold decides) than to 0 (it "
        r"does not), and the mean level within a quarter of $2/\eta$, in each architecture",
        measured.at_the_edge),
    Claim("edge-elsewhere", 1, ("edge_of_stability", "fig-eos-more"),
        "So do slow, deep and normalized networks, and a transformer that reads, under gradient "
        "descent and under Adam, each at the threshold of its method",
        "the interval of the distance of the level from the threshold, relative to it, lies below "
        "a quarter, in each network",
        larger.at_the_edge, ours=True),
    Claim("depth", 1, ("edge_of_stability", "fig-eos-more"),
        "The deeper the network, the more it sharpens, up to eight hidden layers",
        "the interval of the rank correlation of depth and sharpening lies above 0",
        larger.sharpens_with_depth, ours=True),
    Claim("beyond", 1, ("goldilocks", "fig-gold-settings"),
        "Networks do best beyond the limit",
        "the interval of the gain at $c = 2$, named beforehand, lies above 0, in each setting; "
        "less than 0.3 points are too small to count",
        gain.beyond),
    Claim("beyond-larger", 1, ("sharpness_limits", "fig-limits-scatter"),
        "The same at full resolution, for three times the rate",
        "the interval of the gain in accuracy lies above 0, in each architecture; less than 0.3 "
        "points are too small to count",
        measured.beyond, ours=True),
    Claim("beyond-natural", 1, ("goldilocks", "fig-gold-more"),
        "The same of a CNN on a thousand natural images, with ten seeds",
        "the interval of the gain at $c = 2$, named beforehand, lies above 0, under both losses; "
        "less than 0.3 points are too small to count",
        natural.beyond, ours=True),
    Claim("flatter", 2, ("goldilocks", "fig-gold-main"),
        "Instabilities drive training to flatter regions",
        "the interval of the change lies below 0, for each measure",
        measured.flatter),
    Claim("flatter-natural", 2, ("goldilocks", "fig-gold-more"),
        "The same of a CNN on a thousand natural images, with ten seeds",
        "the interval of the ratio of the sharpnesses at $c = 2$ lies below 1, under both losses",
        natural.flatter, ours=True),
    Claim("accurate", 2, ("goldilocks", "fig-gold-slope"),
        "The flatter end generalizes better",
        "the interval of the gain in accuracy for each halving of the sharpness lies above 0, in "
        "each setting; less than 0.3 points are too small to count",
        gain.more_accurate),
    Claim("accurate-larger", 2, ("goldilocks", "fig-gold-main"),
        "The same at full resolution",
        "the interval of the gain at $c = 2$, named beforehand, lies above 0; less than 0.3 points "
        "are too small to count",
        measured.more_accurate, ours=True),
    Claim("wrong-labels", 2, ("goldilocks", "fig-gold-settings"),
        "The gain is larger where there is something to regularize: with a fifth of the labels "
        "wrong",
        "the interval of the gain with wrong labels minus that with right ones lies above 0, in "
        "each setting; less than 0.3 points are too small to count",
        gain.with_wrong_labels, ours=True),
    Claim("ends", 2, ("goldilocks", "fig-gold-main"),
        "The gain ends at still larger rates",
        "runs diverge at the largest $c$; from $c = 2$ to the last $c$ that most seeds survive, "
        "accuracy falls, its interval below 0; less than 0.3 points are too small to count",
        measured.ends, ours=True),
    Claim("ends-many", 2, ("goldilocks", "fig-gold-slope"),
        "The same with enough seeds, in each setting that enough of them survive",
        "the interval of accuracy at the largest such $c$ minus that at $c = 2$ lies below 0; less "
        "than 0.3 points are too small to count",
        gain.falls, ours=True),
    Claim("ends-natural", 2, ("goldilocks", "fig-gold-more"),
        "The same of a CNN on a thousand natural images: the gain ends",
        "with the squared loss most seeds diverge at $c = 4$; with cross-entropy the interval of "
        "accuracy at the largest $c$ minus that at $c = 2$ lies below 0; less than 0.3 points are "
        "too small to count",
        natural.ends, ours=True),
    Claim("budget", 2, ("goldilocks", "fig-gold-main"),
        "The more instability budget was spent, the flatter the end",
        "the interval of the rank correlation lies below 0",
        measured.paid, ours=True),
    Claim("reflection", 2, ("goldilocks", "fig-gold-reflection"),
        "The reflection law of two parameters says where an instability leaves a network",
        r"at $1 < c \le 1.5$ the law is nearer to the measurement than the threshold is",
        measured.reflected, ours=True),
    Claim("mirror", 2, ("manifold_of_minima", "fig-mirror-images"),
        "Next to a minimum of a network that fits images, the sharpness is reflected at the "
        "threshold up to an error of second order",
        r"at the smallest of three excesses, each half the one before, the error is below a tenth "
        r"of the excess, and was divided by more than $\sqrt8$, in every network",
        measured.mirrored, ours=True),
    Claim("average-motion", 2, ("central_flow", "fig-cf-networks"),
        "On average gradient descent at the edge moves along the central flow: the oscillation "
        "holds the sharpness down by the drift that it gives to its center",
        "the error of the central flow in sharpness, averaged loss and distance is a tenth of the "
        "gradient flow's or less, the interval of the ratio below 0.1, in each setting",
        measured.averaged, ours=True, headline=9),
    Claim("ranks", 2, ("sharpness_limits", "fig-limits-scatter"),
        "Whatever made it flatter, the network of lower *sharpness* generalizes better",
        "the interval of the rank correlation lies below 0, in each architecture",
        measured.ranks("sharpness"), ours=True),
    Claim("ranks-adaptive", 2, ("sharpness_limits", "fig-limits-scatter"),
        "The same of the *adaptive* sharpness, networks of other initial sizes among them",
        "the interval of the rank correlation lies below 0, in each architecture",
        measured.ranks("adaptive_sharpness"), ours=True),
    Claim("outlasts", 2, ("questions", "fig-questions-decay"),
        "The flatness outlasts the rate that made it: lowered and trained on, a run is flatter "
        "than one that never was unstable at that rate",
        "the interval of the ratio lies below 1, for each lowered run, both rates, at the matched "
        "loss and at the end of the continuation",
        questions.outlasts, ours=True, headline=1),
    Claim("flat-starts", 2, ("questions", "fig-questions-starts"),
        "Flat initial weights need no instability: at the same rate and loss they end as flat and "
        "as accurate",
        "sharpness at most 10% higher and accuracy at most one point lower (bounds set for this "
        "table), each by its interval, for each start and over the runs that never were unstable",
        questions.starts_flat, ours=True),
    Claim("polarity", 3, ("episodes_and_rotation", "fig-epi-polarity"),
        "Opposite displacements turn $v_1$ in opposite senses",
        "the cosine is below $-0.9$",
        measured.polarity, ours=True),
    Claim("polarity-size", 3, ("episodes_and_rotation", "fig-epi-polarity"),
        "The first order predicts by how much $v_1$ turns",
        "the error is below 10% (a bound set for this table)",
        measured.polarity_size, ours=True, headline=1),
    Claim("rates", 3, ("episodes_and_rotation", "fig-epi-turn"),
        "The leading eigenvectors turn more at larger learning rates",
        "the interval of the rank correlation lies below 0",
        measured.more_at_larger_rates),
    Claim("episode-v1", 3, ("episodes_and_rotation", "fig-epi-null"),
        "An instability turns $v_1$ more than stable training does from the same point in as much "
        "time, and more than the same run does in a window without one",
        "the interval of the difference, paired within a run, lies above 0, for each network and "
        "null",
        larger.beyond_chance("v1")),
    Claim("episode-followed", 3, ("episodes_and_rotation", "fig-epi-null"),
        "So does the eigenvector that continues $v_1$: more has turned than the order of the "
        "eigenvalues",
        "the same of the nearest leading eigenvector",
        larger.beyond_chance("followed"), ours=True),
    Claim("episode-space", 3, ("episodes_and_rotation", "fig-epi-null"),
        "So does the space of the three leading eigenvectors",
        "the same of the leading space",
        larger.beyond_chance("space"), ours=True),
    Claim("episode-exchange", 3, ("episodes_and_rotation", "fig-epi-null"),
        "Within that space it leaves less of the old $v_1$ in the new one than chance would, and "
        "of the space more",
        "the interval of the share of the new $v_1$ in the old space, minus that of a random "
        "vector, lies above 0, and that of its share in the old $v_1$, minus a third of that, "
        "below 0, in each network",
        larger.exchanged, ours=True),
    Claim("episode-rates", 3, ("episodes_and_rotation", "fig-epi-null"),
        "A single instability turns the eigenvectors more at a larger rate",
        "the interval of the turn at the largest rate minus that at the smallest lies above 0",
        larger.more_at_larger_rates, ours=True),
    Claim("episode-flattens", 3, ("episodes_and_rotation", "fig-epi-null"),
        "Where instabilities turn the eigenvectors the sharpness falls, and in stable training it "
        "rises",
        "the interval of the logarithm of the ratio lies below 0 in episodes, and above 0 in "
        "stable training, in each network",
        larger.flattens, ours=True),
    Claim("negative", 3, ("episodes_and_rotation", "fig-epi-average"),
        r"$\lvert\lambda_{\min}\rvert$ grows during an instability",
        "the interval of the change lies below 0",
        measured.negative_curvature),
    Claim("no-depth", 3, ("episodes_and_rotation", "fig-epi-turn"),
        "Without depth nothing turns, under the squared loss",
        "the linear model turns less than a hundredth of what the network does in stable training "
        "(a bound set for this table)",
        measured.without_depth, ours=True),
    Claim("proof", 3, ("manifold_of_minima", "thm-M2"),
        "The rotation provably leads to flatter minima (here: for a small excess, next to a "
        "manifold of minima, its squared angles add up to the logarithm of the sharpness lost)",
        "{prf:ref}`thm-M1`, {prf:ref}`thm-M2` and {prf:ref}`thm-M3` are proved and tested; "
        "measured, the ratio of the two in the network farthest from 1 is within 10% of it (a "
        "bound set for this table), and nearer at a smaller excess; the error of the reflection "
        "law falls with the excess in second order, not in first",
        measured.rotation_pays),
    Claim("proof-images", 3, ("manifold_of_minima", "fig-mirror-images"),
        "The same in networks that fit images: squared angles add up to the logarithm of the "
        "sharpness lost",
        "the ratio of the two is within 10% of one at the smallest of three excesses, and nearer "
        "than at the largest, in every network",
        measured.rotation_pays_on_images, ours=True),
    Claim("cause-necessity", 3, ("cause_or_company", "fig-cc-kept"),
        "Without what turns the eigenvectors an instability does not flatten: it is necessary",
        "with the part of the even force across the unstable directions taken away, and the "
        "oscillation as large as in gradient descent, the interval of the share of the flattening "
        "that is kept lies below a quarter, in each setting; undecided where the interval of the "
        "flattening is not above a tenth (bounds set beforehand)",
        measured.cause_is_necessary, ours=True),
    Claim("cause-sufficiency", 3, ("cause_or_company", "fig-cc-kept"),
        "What turns the eigenvectors flattens by itself, without any oscillation: it is sufficient",
        "with that part alone, and with it for a network that does not oscillate, the interval of "
        "the share lies above three quarters; with it reversed, below 0; undecided as above "
        "(bounds set beforehand)",
        measured.cause_is_sufficient, ours=True),
    Claim("exploration", 3, ("questions", "fig-questions-explore"),
        "The rotation promotes exploration (here: unstable training explores more than stable "
        "training in equal time, by seven measures)",
        "the interval of the ratio lies above 1, at each unstable $c$, for each measure",
        questions.explored, headline=10),
    Claim("exploration-rotation", 3, ("questions", "fig-questions-cut"),
        "It does so as the cause: without what the rotation does to the parameters, less is "
        "explored",
        "the interval of the ratio lies above 1, for each measure",
        questions.explored_by_rotation, ours=True, headline=5),
    Claim("timing", 3, ("questions", "fig-questions-timing"),
        "Curvature beyond the sharpness falls before an instability is resolved",
        "the interval of its fall from the turn of the loss to the resolution, less that of "
        "shifted windows, lies above 0, for each quantity",
        questions.falls, ours=True),
    Claim("timing-leads", 3, ("questions", "fig-questions-timing"),
        "It falls even before the loss turns",
        "the intervals of its lead, and of the lead less that of shifted windows, lie above 0, for "
        "each quantity",
        questions.leads, ours=True),
    Claim("persists", 4, ("sgd_noise", "fig-sgd-effects"),
        "The flattening persists in SGD",
        "the interval of the fall lies above 0, for each rate and batch size",
        measured.sgd("persists",
            "fall of $\\log\\lambda_1$ from the small rate to {rate:g}, batches of {batch}")),
    Claim("outweighs", 4, ("sgd_noise", "fig-sgd-effects"),
        "Instability outweighs the noise of the minibatch, after as many updates",
        "the interval of instability minus noise lies above 0, for each rate and batch size",
        measured.sgd("difference", "instability at {rate:g} minus noise of batches of {batch}")),
    Claim("outweighs-in-time", 4, ("sgd_noise", "fig-sgd-effects"),
        "It does so too when the noise is given the longest training time",
        "the interval of instability minus noise lies above 0, for each rate",
        measured.outweighs_in_time, ours=True, headline=1),
    Claim("outweighs-matched", 4, ("sgd_noise", "fig-sgd-shares"),
        "Instability outweighs noise also where the noise is given as much training time, and as "
        "much diffusion for each unit of it",
        "the joint interval of instability minus noise lies above 0, for each of three ways to "
        "compare, the strictest first",
        noise.outweighs, ours=True),
    Claim("instability-adds", 4, ("sgd_noise", "fig-sgd-shares"),
        "At equal diffusion and training time, a rate past the edge flattens more than noise does "
        "alone",
        "the interval of what it adds lies above 0",
        noise.adds, ours=True),
    Claim("noise-gaussian", 4, ("sgd_noise", "fig-sgd-kinds"),
        "Gaussian noise of the covariance that minibatches have flattens as they do",
        "the interval of the difference lies within 0.1 of zero",
        noise.gaussian, ours=True),
    Claim("noise-isotropic", 4, ("sgd_noise", "fig-sgd-kinds"),
        "Isotropic noise of the same size flattens little",
        "the interval of its fall minus a quarter of that by noise of the covariance lies below 0",
        noise.isotropic, ours=True),
    Claim("second-moment", 4, ("sgd_noise", "fig-sgd-onset"),
        "At a minimum of a network, distances grow in mean square from the threshold of the second "
        "moment on ({prf:ref}`prop-Q4`)",
        "the joint interval of the distance of the measured onset from it lies below 2%, for each "
        "batch size",
        noise.second_moment, ours=True),
    Claim("single-runs", 4, ("sgd_noise", "fig-sgd-onset"),
        "A single run stays beyond that threshold, for a while",
        "the joint interval of how far beyond it half of the runs leave lies above 0, for each "
        "batch size",
        noise.single_runs, ours=True),
    Claim("batch-sharpness", 4, ("sgd_noise", "fig-sgd-batches"),
        r"SGD trains until the sharpness of its batches is at $2/\eta$, as Andreyev and "
        "Beneventano find",
        r"late in training it is within 10% of $2/\eta$, by the interval, for each batch size",
        noise.of_batches, ours=True),
    Claim("gap", 4, ("sgd_noise", "fig-sgd-gap"),
        r"{prf:ref}`thm-F4` predicts from measured constants how far below $2/\eta$ noise along "
        "$v_1$ keeps the sharpness of a network",
        "the joint interval of measured over predicted lies within a factor of two of 1, at each "
        "of three noises",
        noise.gap_is_predicted("leading"), ours=True),
    Claim("gap-minibatches", 4, ("sgd_noise", "fig-sgd-gap"),
        "The same of the noise of minibatches, which has all directions",
        "the same",
        noise.gap_is_predicted("independent"), ours=True),
    Claim("damping", 5, ("adam", "fig-adam-damping"),
        "Adam's second moment damps instabilities",
        "with $v$ frozen the loss peaks higher in each episode",
        measured.damped, ours=True),
    Claim("adam-flatter", 5, ("adam", "fig-adam-outcome"),
        "Restoring instabilities makes Adam end flatter",
        "the joint interval of the ratio lies above 1, for each variant",
        measured.adam("flatter"), ours=True, headline=1),
    Claim("adam-accurate", 5, ("adam", "fig-adam-outcome"),
        "Restoring instabilities makes Adam generalize better",
        "the joint interval of the gain in accuracy lies above 0, for each variant; less than 0.3 "
        "points are too small to count",
        measured.adam("accuracy"), headline=1),
    Claim("adam-restores", 5, ("adam", "fig-adam-restored"),
        "With its second moment clipped Adam is unstable at a small rate at which it is stable",
        "the joint interval of the number of episodes, less Adam's, lies above 0, for each form of "
        "clipping, full batch; less than one in two runs are too few to count (a bound set for "
        "this table)",
        restoring.restores, ours=True, headline=1),
    Claim("adam-small-rate-flatter", 5, ("adam", "fig-adam-restored"),
        "At that rate it ends flatter than Adam",
        "the joint interval of the ratio lies above 1, for each form of clipping and setting",
        restoring.flatter, ours=True, headline=1),
    Claim("adam-small-rate-accurate", 5, ("adam", "fig-adam-restored"),
        "At that rate it generalizes better than Adam",
        "the joint interval of the gain in accuracy lies above 0, for each form of clipping and "
        "setting; less than 0.3 points are too small to count",
        restoring.accurate, ours=True, headline=1),
    Claim("adam-tuned", 5, ("adam", "fig-adam-restored"),
        "Restoring instabilities makes Adam generalize better, each at its own best rate",
        "the joint interval of the gain lies above 0, for each form of clipping and setting, at "
        "rates tuned on validation images in each; less than 0.3 points are too small to count",
        restoring.tuned, headline=1),
    Claim("adam-beats-slow", 5, ("adam", "fig-adam-restored"),
        "It does so beyond an Adam whose second moment is merely slow",
        r"the same against Adam with $\beta_2 = 0.99$",
        restoring.beats_slow, ours=True, headline=1),
)  # fmt: skip
"""Every claim, in the order of the paper's five."""


def judge_all(evidence: Evidence) -> list[Finding]:
    """All findings, in the order of `CLAIMS`."""
    return [judge(claim, evidence) for claim in CLAIMS]
