"""What each family of techniques is for, when it pays and when it does not: the words of its page.

Figures in the words are of docs/learning.md, docs/privacy.md, docs/federated.md or the trainer's README.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """Of one family."""

    page: str
    """Name of its file."""
    purpose: str
    use: str
    """When it pays."""
    leave: str
    """When it does not."""


ADVICE: Mapping[str, Advice] = {
    "Models that rank": Advice(
        "models",
        "What is learned: a small dense graph over the shopper's, the history's and the candidates' inputs;"
        " ids stay outside of it, as rows.",
        "`din` (the default), `two_tower`, `deepfm`, `dlrm` and `transformer` rank alike on a day of travel"
        " searches: start with `din`; take `two_tower` where a release has to be small and quick."
        " `factorisation` finds hidden groups of shoppers and items sooner than `din`, above all with"
        " `lightgcn`.",
        "`logistic` and `factorisation` alone lose .007 of MRR there, `embedding_sum` .002. They are"
        " baselines, and what a shop with few features and many clicks may still want.",
    ),
    "Steps": Advice(
        "steps",
        "How a gradient moves weights: every example is learned once, when it comes.",
        "Adam by example batches is the default and was not beaten. Adagrad does as well. The hypergradient"
        " step lost fewer clicks after a planted turn of tastes, where it grew its steps, and .004 of MRR on a"
        " day without one.",
        "Plain SGD needs its rate to be found for each shop (-.014 of MRR with the one tried) and forgets"
        " nothing of a bad one. Accumulation over k steps is for memory, not for quality. `drift_step` acted"
        " as Adam on a log without drift, as it should.",
    ),
    "Not forgetting": Advice(
        "not-forgetting",
        "Keeping what older data taught while new data is learned: replay, anchors, a teacher, averages of weights.",
        "By periods (the next item of a session, weeks apart) it pays: dropout in the base and fusion of old"
        " and new weights raise Recall and MRR over fine-tuning at the same cost, and counts of co-visits"
        " beside the network raise them most.",
        "Online, on one day of one log, tastes do not come back, so there is nothing to protect: replay loses"
        " the more the more is replayed (-.006 to -.033 of MRR), `ewc` and a light distillation change nothing"
        " that can be seen. After a planted turn of tastes replay never came back.",
    ),
    "Moving few weights": Advice(
        "few-weights",
        "Adapters and chosen layers: an update moves a small share of the weights; releases are merged, so"
        " serving does not notice.",
        "Where several arms share a base, or where what may move is limited on purpose (a new shop by"
        " transfer, with `thaw` releasing layer after layer).",
        "The graphs that rank here are small: LoRA saves no time and loses .004 of MRR, AdaLoRA .007, the"
        " last layers alone .017, biases alone as much as not learning at all.",
    ),
    "Text encoder": Advice(
        "text-encoder",
        "A pretrained encoder of queries and titles that keeps learning from what is chosen: pairs of a query and an"
        " item, other items of the batch as wrong answers. What is released is a plain encoder; adapters are merged.",
        "`lora` and `top` where several encoders share a base or memory is short: LoRA moves 1.5 % of the numbers of"
        " all-MiniLM-L6-v2 (331,776 of 22.6 million) and its Adam remembers as few. `top` is the cheapest step, because"
        " gradients stop early. On judged queries LoRA and the whole encoder gain .003 of NDCG@10 alike on the next"
        " slice (docs/search.md).",
        "Not before the ranker has the frozen encoder's cosine beside lexical features: that alone is most of what the"
        " encoder gives on judged queries. A new encoder needs every item's vector again; an update that gains little"
        " is not worth that.",
    ),
    "Each update": Advice(
        "updates",
        "What surrounds an update: what is held out, when it ends, when a strange slice is held back.",
        "`hold_out=0.1` costs nothing that can be seen and is what early stopping and chosen fusion are"
        " judged by. `hold_psi` holds a release back while inputs look unlike the window before, for a bounded"
        " time, and says why.",
        "Periods of several epochs (`epochs` at releases) are worse than learning each example when it comes"
        " (-.028 of MRR): they are for shops whose labels only come in batches.",
    ),
    "Smaller models": Advice(
        "smaller-models",
        "A small student taught by a large teacher's scores, offline.",
        "When the release must be smaller than what learns: a `din` of 8,4 units taught by one of 128,64"
        " reached AUC .806 where untaught it reached .732 (teacher .832).",
        "When size is not the trouble: of a request to Triton most time is its way there.",
    ),
    "Several processes": Advice(
        "several-processes",
        "One step by several processes: dense weights by DistributedDataParallel, rows kept by key.",
        "When rows do not fit one machine, or steps are large. Two processes give what one gives within float"
        " tolerance and a run resumes with another number of them.",
        "At the usual step of some dozens of impressions the exchange takes what the second process gives:"
        " hardly faster on one machine.",
    ),
    "Privacy": Advice(
        "privacy",
        "Learning with differential privacy per shopper; docs/privacy.md has the promise and the mechanism.",
        "When it must be: the budget is kept in the checkpoint, learning stops when it is used up, a rollback"
        " gives nothing back. More shoppers in a round cost less quality.",
        "It costs: AUC .86 to .69 at epsilon 8 with 6,000 shoppers. Selected rows keep pushes small and learn"
        " rare items seldom.",
    ),
    "Triggers": Advice(
        "triggers",
        "When a release is made of what has been learned.",
        "`time` and `volume` are what a shop needs: rows and features are fresh anyway, and dense weights may"
        " be minutes old (AUC .8853 at no lag, .8849 an hour later). `drift` on the surplus raises no alarm"
        " under a daily wave and tells a full turn of tastes after eleven minutes.",
        "Drift triggers hardly ever fire on a learner that learns online, for it follows by itself; they are"
        " for models that learn by periods. On the raw loss ADWIN gives two to three false alarms a day.",
    ),
    "Regularisers and more data": Advice(
        "regularisers",
        "Terms beside the loss, rows smoothed over a graph, made-up views of histories.",
        "`lightgcn` with `factorisation` where shoppers and items fall into groups: +.03 to +.07 of MRR with"
        " few lists a shopper, for a quarter more time.",
        "Adversarial rows, co-clicks, pseudo-labels and augmented histories change nothing that one day of a"
        " log can show.",
    ),
    "Labels, imbalance and noise": Advice(
        "labels",
        "What counts as a label and how much: late ones, rare ones, noisy ones, those that position made.",
        "`flips` (the default) need no model of delays; the other ways of treating late labels are within a"
        " few thousandths of them where tastes stand still. `calibrated` is the best by a little where tastes"
        " shift.",
        "Focal, weighted and smoothed losses rank the same and ruin probabilities (calibration 1.5 to 4.2):"
        " do not use them where scores are bid with or mixed. Over-sampling and virtual clicks gained nothing"
        " on a planted shop. Debiasing by position gained nothing on trivago's lists.",
    ),
    "Compression of a release": Advice(
        "compression",
        "Making a release smaller before it is served, each time behind a gate of size, time and quality.",
        "`fp16` halves the file at no cost; `int8_dynamic` too. They pay when releases travel far or many are kept.",
        "Nothing gets faster at this size: a request is bound by its way through Triton. Pruning and low rank"
        " do not pay.",
    ),
    "Shops together": Advice(
        "shops-together",
        "Shops that learn one model without showing each other their logs; docs/federated.md.",
        "When shops may not pool their logs, and each is too small alone.",
        "In the measured runs averaging was hardly better than a shop alone, and far from what all data together give.",
    ),
    "Ratings, one at a time": Advice(
        "ratings",
        "Stars instead of clicks, predicted and then learned one after the other.",
        "`Effects` where features of users and items are known: .9269 RMSE on ml-100k at thirteen times"
        " River's speed; the blend with factors where the last thousandth counts. The rating heads of the ranker where"
        " one order has to weigh stars beside clicks: stars are then a score like any other.",
        "Plain factorisation is as exact as River's and no better; it is there to be compared with. The ranker's heads"
        " are no way to the least error: .983 RMSE, where biases alone have .954.",
    ),
    "Looking and choosing": Advice(
        "choosing",
        "Finding out, on one's own archive and then on shoppers, whether any of this pays.",
        "Always, in this order: `freshrank evaluate` on the archive, `freshrank tune` on its older part, an"
        " arm beside the incumbent (`freshrank arms start`), then promote.",
        "A trial of arms finds 20 % more clicks with some 4,000 shopper-periods, 5 % mostly not with 16,000:"
        " small gains are for `evaluate`.",
    ),
}
