"""Every technique of incremental learning: its setting, module, test and measured result. Written to techniques.md.

A test checks that settings are accepted, modules and tests exist, and that the page is what this file says.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOSS_TESTS = "tests/trainer/strategies/test_losses.py"
_LOGISTIC = "tests/trainer/test_models.py"


@dataclass(frozen=True)
class Technique:
    """One row."""

    name: str
    paper: str
    module: str
    test: str
    """file::function"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the trainer, as they would be set; empty where it is chosen in another way, which `how` says."""
    how: str = ""
    result: str = ""
    """study/way of benchmarks/results/learning/<study>.json; empty where nothing was measured."""


def _strategy_test(function: str) -> str:
    """Where a test of a strategy stands."""
    folder = ROOT / "tests" / "trainer" / "strategies"
    found = [path for path in sorted(folder.glob("test_*.py")) if f"def {function}(" in path.read_text()]
    return f"{found[0].relative_to(ROOT)}::{function}" if found else f"{folder.relative_to(ROOT)}::{function}"


def _strategy(name: str, paper: str, line: str, module: str, test: str, result: str = "") -> Technique:
    where = f"services/trainer/strategies/{module}.py"
    return Technique(name, paper, where, _strategy_test(test), {"strategy": line}, result=result)


def _loss(name: str, paper: str, line: str, test: str, result: str = "") -> Technique:
    return Technique(
        name, paper, "services/trainer/strategies/losses.py", f"{LOSS_TESTS}::{test}", {"loss": line}, result=result
    )


def _model(name: str, paper: str, setting: str, module: str = "") -> Technique:
    where = f"services/trainer/models/{module or setting}.py"
    test = f"{_LOGISTIC}::test_it_learns_what_is_clicked"
    return Technique(name, paper, where, test, {"model": setting}, result=f"trivago/model {setting}")


def _sequence(name: str, paper: str, row: str, module: str, test: str) -> Technique:
    test = f"tests/trainer/test_sequence{test}"
    where = f"services/trainer/sequence/{module}.py"
    return Technique(name, paper, where, test, how=f"`--rows {row}`", result=f"diginetica/{row}")


def _text(name: str, paper: str, line: str, module: str, test: str) -> Technique:
    test = f"tests/trainer/text/test_ways.py::{test}"
    return Technique(name, paper, f"services/trainer/text/{module}.py", test, {"text_way": line})


FAMILIES: Mapping[str, tuple[Technique, ...]] = {
    "Models that rank": (
        _model("Logistic regression", "Richardson et al., 2007", "logistic"),
        _model("Matrix factorisation", "Koren, Bell, Volinsky, 2009", "factorisation", "matrix_factorisation"),
        _model("Sum of embeddings", "Joulin et al., 2017", "embedding_sum"),
        _model("Two towers", "Covington et al., 2016", "two_tower"),
        _model("DeepFM", "Guo et al., 2017", "deepfm"),
        _model("DLRM", "Naumov et al., 2019", "dlrm"),
        _model("Transformer over the history", "Chen et al., 2019", "transformer"),
        Technique(
            "Target attention (DIN), the default",
            "Zhou et al., 2018",
            "services/trainer/models/din.py",
            f"{_LOGISTIC}::test_it_learns_what_is_clicked",
            {"model": "din"},
            result="trivago/online",
        ),
    ),
    "Steps": (
        Technique(
            "Adam, online, the default",
            "Kingma, Ba, 2015",
            "services/trainer/strategies/optimisers.py",
            "tests/trainer/test_online.py::test_clicks_are_learned",
            {"optimiser": "adam"},
            result="trivago/online",
        ),
        Technique(
            "SGD",
            "Robbins, Monro, 1951",
            "services/trainer/strategies/optimisers.py",
            "tests/trainer/strategies/test_optimisers.py::test_each_step_is_its_formula",
            {"optimiser": "sgd"},
            result="trivago/sgd",
        ),
        Technique(
            "Adagrad",
            "Duchi et al., 2011",
            "services/trainer/strategies/optimisers.py",
            "tests/trainer/strategies/test_optimisers.py::test_each_step_is_its_formula",
            {"optimiser": "adagrad"},
            result="trivago/adagrad",
        ),
        Technique(
            "FTRL-proximal",
            "McMahan et al., 2013",
            "services/trainer/strategies/optimisers.py",
            "tests/trainer/strategies/test_optimisers.py::test_ftrl_gives_the_minimum_of_what_it_follows",
            {"optimiser": "ftrl"},
            result="trivago/ftrl",
        ),
        Technique(
            "Passive-aggressive",
            "Crammer et al., 2006",
            "services/trainer/ratings/row_optimisers.py",
            "tests/trainer/ratings/test_factorisation.py::test_passive_aggressive_meets_its_margin",
            how="`PassiveAggressive()` of `ratings.Factorisation`",
        ),
        Technique(
            "Gradient accumulation",
            "",
            "services/trainer/strategies/online.py",
            _strategy_test("test_accumulated_steps_equal_one_large_one"),
            {"accumulate": 4},
            result="trivago/accumulate 4",
        ),
        _strategy(
            "Hypergradient step",
            "Baydin et al., 2018",
            "hypergradient()",
            "adaptive",
            "test_the_rate_grows_while_gradients_agree",
            "trivago/hypergradient",
        ),
        _strategy(
            "Longer steps after a drift",
            "Page, 1954",
            "drift_step()",
            "adaptive",
            "test_a_drift_lengthens_steps_for_a_while",
            "trivago/drift step",
        ),
        Technique(
            "Products of matrices in bfloat16 (mixed precision)",
            "Micikevicius et al., 2018",
            "services/trainer/strategies/online.py",
            _strategy_test("test_products_in_bfloat16_learn_as_well_and_score_in_float32"),
            {"precision": "bfloat16"},
        ),
    ),
    "Not forgetting": (
        _strategy(
            "Replay of a reservoir",
            "Rolnick et al., 2019; Vitter, 1985",
            "replay(2000, 0.5)",
            "replay",
            "test_the_reservoir_is_a_uniform_sample",
            "trivago/replay 50 %",
        ),
        _strategy(
            "Elastic weight consolidation",
            "Kirkpatrick et al., 2017; Schwarz et al., 2018",
            "ewc(10)",
            "anchors",
            "test_elastic_weights_and_replay_forget_less_than_plain_learning",
            "trivago/ewc 10",
        ),
        _strategy(
            "Distillation from the serving teacher",
            "Hinton et al., 2015",
            "distillation(0.3, 2)",
            "distillation",
            "test_distillation_pulls_towards_the_teacher",
            "trivago/distillation 0.3",
        ),
        _strategy(
            "Parameter fusion",
            "Wortsman et al., 2022; the outer step of Reptile, Nichol et al., 2018",
            "fusion(0.7)",
            "anchors",
            "test_fusion_at_its_ends_is_the_old_model_or_the_new_bit_for_bit",
            "trivago/fusion 0.7",
        ),
        _strategy(
            "Fusion with the share chosen on held-out impressions",
            "",
            "fusion_chosen()",
            "anchors",
            "test_the_share_of_fusion_is_chosen_by_the_held_out_loss",
            "trivago/fusion chosen",
        ),
        _sequence(
            "Reservoir replay, next item",
            "Vitter, 1985",
            "replay",
            "ways",
            "_periods.py::test_a_reservoir_keeps_every_past_session_with_the_same_chance",
        ),
        _sequence(
            "Dropout, next item",
            "Mirzadeh et al., 2020",
            "dropout",
            "ways",
            ".py::test_dropout_keeps_the_mean_and_drops_the_share_asked_for",
        ),
        _sequence(
            "Dropout of the base alone, next item",
            "",
            "base-dropout",
            "ways",
            "_periods.py::test_dropout_of_the_base_ends_with_it_and_a_restart_remembers",
        ),
        _sequence(
            "Co-visit counts beside the network, next item",
            "Jannach, Ludewig, 2017",
            "base-fusion-covisits",
            "covisits",
            "_covisits.py::test_beside_a_network_counts_tell_items_that_it_knows_too_little_of",
        ),
        _sequence("Elastic weights, next item", "Kirkpatrick et al., 2017", "ewc", "anchors", "_ways.py::"),
        _sequence("LoRA, next item", "Hu et al., 2022", "lora", "lowrank", "_ways.py::"),
        _sequence("Learned transfer (SML), next item", "Zhang et al., 2020", "sml", "transfer", "_ways.py::"),
        _sequence("Parameter fusion, next item", "Wortsman et al., 2022", "fusion", "mixing", "_ways.py::"),
        _sequence(
            "Distillation without exemplars, next item", "Li, Hoiem, 2017", "distillation", "distillation", "_ways.py::"
        ),
        _sequence(
            "Masked items, next item", "Sun et al., 2019", "masked-items", "selfsupervised", "_selfsupervised.py::"
        ),
        _sequence(
            "Contrastive sessions, next item",
            "Xie et al., 2022",
            "contrastive",
            "selfsupervised",
            "_selfsupervised.py::",
        ),
        _sequence(
            "Herded exemplars and adaptive distillation, next item",
            "Mi et al., 2020",
            "ader",
            "ader",
            "_ader.py::test_each_herded_exemplar_brings_the_mean_as_near_as_any_could",
        ),
    ),
    "Moving few weights": (
        _strategy(
            "Fine-tuning of the last layers",
            "Howard, Ruder, 2018",
            "layers(top)",
            "adapters",
            "test_only_the_chosen_layers_move",
            "trivago/top layers",
        ),
        _strategy(
            "Biases alone (BitFit)",
            "Ben Zaken et al., 2022",
            "layers(biases)",
            "adapters",
            "test_only_the_chosen_layers_move",
            "trivago/biases",
        ),
        _strategy(
            "LoRA",
            "Hu et al., 2022",
            "lora(4, 8)",
            "adapters",
            "test_low_rank_adapters_leave_the_base_alone_and_are_exported_merged",
            "trivago/lora 4",
        ),
        _strategy(
            "AdaLoRA",
            "Zhang et al., 2023",
            "adalora(8, 0.5)",
            "adapters",
            "test_adaptive_rank_keeps_its_budget_of_directions",
            "trivago/adalora 8",
        ),
        Technique(
            "Transfer from another arm or shop",
            "",
            "services/trainer/transfer.py",
            "tests/trainer/test_transfer.py::test_it_scores_well_from_the_first_impression",
            how="`transfer_from` a checkpoint",
        ),
        _strategy(
            "Layers frozen, then released",
            "Howard, Ruder, 2018",
            "thaw(1000)",
            "adapters",
            "test_what_was_taken_over_thaws_after_so_many_impressions",
        ),
    ),
    "Text encoder": (
        _text(
            "Contrastive, with items of the batch and hard negatives",
            "van den Oord et al., 2018; Henderson et al., 2017",
            "full()",
            "losses",
            "test_a_hard_negative_is_pushed_away",
        ),
        Technique(
            "Hard negatives above the last click",
            "Joachims, 2002",
            "services/trainer/text/searches.py",
            "tests/trainer/text/test_searches.py::test_a_closed_search_tells_what_was_chosen_and_what_was_passed_over",
            {"text_negatives": 2},
        ),
        Technique(
            "Grades read off the cosine",
            "Reimers, Gurevych, 2019",
            "services/trainer/text/losses.py",
            "tests/trainer/text/test_ways.py::test_grades_are_learned_as_a_line_of_the_cosine",
            how="`Learner(text, 'full()')` of pairs with grades",
        ),
        Technique(
            "Hidden words of the catalogue, before",
            "Devlin et al., 2019; Gururangan et al., 2020",
            "services/trainer/text/mlm.py",
            "tests/trainer/text/test_mlm.py::test_it_learns_what_stands_beside_what",
            how="`freshrank text pretrain`",
        ),
        _text("Whole encoder", "", "full()", "ways", "test_full_moves_every_block"),
        _text(
            "Top blocks of the encoder",
            "Howard, Ruder, 2018",
            "top(2)",
            "ways",
            "test_top_layers_leave_what_is_below_untouched",
        ),
        _text(
            "LoRA of the encoder",
            "Hu et al., 2022",
            "lora(8)",
            "ways",
            "test_adapters_leave_the_base_untouched_and_are_released_merged",
        ),
        _text(
            "AdaLoRA of the encoder",
            "Zhang et al., 2023",
            "adalora(8)",
            "ways",
            "test_adalora_ends_with_its_share_of_directions",
        ),
        _text(
            "Replay of pairs",
            "Vitter, 1985",
            "lora(8), replay(2000, 0.5)",
            "replay",
            "test_replay_brings_back_pairs_with_the_same_chance",
        ),
        _text(
            "Queries in other forms: a word less, two changed about, a typo",
            "Wei, Zou, 2019",
            "lora(8), varied(0.3)",
            "variations",
            "test_varied_queries_are_learned_in_other_forms_of_a_seed",
        ),
    ),
    "Each update": (
        Technique(
            "Hash share held out, learned after the release",
            "",
            "services/trainer/strategies/held.py",
            _strategy_test("test_held_out_impressions_are_learned_only_after_the_release"),
            {"hold_out": 0.1},
            result="trivago/hold out 10 %",
        ),
        Technique(
            "Periodic fine-tuning with early stopping",
            "Prechelt, 1998",
            "services/trainer/strategies/epochs.py",
            _strategy_test("test_early_stopping_goes_back_to_the_best_weights_and_rows"),
            {"strategy": "epochs(3, 4)", "labels": "at_release", "hold_out": 0.1},
            result="trivago/epochs at releases",
        ),
        Technique(
            "An unusual slice holds the release",
            "Siddiqi, 2006 (stability index)",
            "services/trainer/slices.py",
            "tests/trainer/test_shift.py::",
            {"hold_psi": 0.25},
        ),
    ),
    "Smaller models": (
        Technique(
            "Distillation to a smaller student, offline",
            "Hinton et al., 2015",
            "services/trainer/evaluation/students.py",
            "tests/trainer/evaluation/test_students.py::"
            "test_a_student_scores_as_its_teacher_more_than_one_that_is_not_taught",
            how="`freshrank distil`",
        ),
    ),
    "Several processes": (
        Technique(
            "Synchronous and stale steps, dense by DistributedDataParallel, rows by key",
            "Li et al., 2014; Li et al., 2020",
            "services/trainer/distributed/strategy.py",
            "tests/trainer/test_distributed.py::",
            how="`torchrun -m services.trainer.distributed`",
        ),
    ),
    "Privacy": (
        Technique(
            "DP-SGD per shopper, with Opacus' accountant",
            "Abadi et al., 2016; McMahan et al., 2018",
            "services/trainer/strategies/private.py",
            "tests/trainer/test_private_learning.py::",
            how="`privacy=private(8, 1e-6, 4)`, docs/privacy.md",
        ),
        Technique(
            "Noise on selected rows (DP-AdaFEST)",
            "Ghazi et al., 2023",
            "services/trainer/privacy/selection.py",
            "tests/trainer/test_privacy_selection.py::",
            how="`privacy=private(8, 1e-6, 6), selected(18, 54)`, docs/privacy.md",
        ),
    ),
    "Triggers": (
        Technique(
            "Time, volume, cost, performance; any, all, majority",
            "",
            "services/trainer/triggers.py",
            "tests/trainer/test_triggers.py::test_any_of_several_is_whichever_comes_first",
            {"trigger": "any(time(300), all(volume(1000), cost(1)))"},
        ),
        Technique(
            "Drift of losses: ADWIN",
            "Bifet, Gavaldà, 2007",
            "services/trainer/drift.py",
            "tests/trainer/test_triggers.py::",
            {"trigger": "drift(adwin)"},
        ),
        Technique(
            "Drift of losses: Page-Hinkley",
            "Page, 1954",
            "services/trainer/drift.py",
            "tests/trainer/test_triggers.py::",
            {"trigger": "drift(page_hinkley)"},
        ),
        Technique(
            "Shift of feature distributions",
            "Siddiqi, 2006",
            "services/trainer/shift.py",
            "tests/trainer/test_shift.py::",
            {"trigger": "shift(0.2, 1000)"},
        ),
    ),
    "Regularisers and more data": (
        _strategy(
            "Adversarial rows",
            "He et al., 2018",
            "adversarial(0.1, 0.5)",
            "regularisers",
            "test_adversarial_rows_are_learned_on_their_worst_side",
            "trivago/adversarial",
        ),
        _strategy(
            "Co-click graph",
            "Belkin et al., 2006",
            "co_clicks(0.01)",
            "regularisers",
            "test_co_clicked_rows_come_nearer",
            "trivago/co-clicks",
        ),
        _strategy(
            "Pairs of what was acted on and what was not (RankNet)",
            "Burges et al., 2005",
            "pairwise(0.3)",
            "ranks",
            "test_pairs_cost_what_ranknet_says",
        ),
        _strategy(
            "Lists: softmax over an answer (ListNet)",
            "Cao et al., 2007",
            "listwise(0.3)",
            "ranks",
            "test_lists_cost_the_softmax_of_what_was_shown",
        ),
        Technique(
            "Rows smoothed over the graph of actions (LightGCN), by touched neighbourhood",
            "He et al., 2020",
            "services/trainer/graph.py",
            "tests/trainer/test_graph.py::test_what_was_pushed_is_full_propagation_whatever_moved_came_and_went",
            {"strategy": "lightgcn(1, 16, 64)"},
        ),
        _strategy(
            "Pseudo-labels", "Lee, 2013", "pseudo_labels()", "regularisers", "test_it_learns", "trivago/pseudo-labels"
        ),
        _strategy(
            "Augmented histories: crop, mask, reorder",
            "Xie et al., 2022",
            "augmentation(mask, 0.5)",
            "augmentation",
            "test_copies_have_another_history_and_the_same_labels",
            "trivago/augmented",
        ),
    ),
    "Labels, imbalance and noise": (
        Technique(
            "Flips of late labels, the default",
            "",
            "services/trainer/strategies/losses.py",
            "tests/trainer/test_online.py::test_what_appears_and_what_flips_sum_to_the_full_label",
            {"labels": "flips"},
            result="trivago/online",
        ),
        Technique(
            "Waiting for labels",
            "",
            "services/trainer/strategies/losses.py",
            f"{LOSS_TESTS}::test_late_labels_are_learned_by_waiting_or_by_weight",
            {"labels": "waiting"},
            result="trivago/labels waited for",
        ),
        Technique(
            "Fake negative weighting",
            "Ktena et al., 2019",
            "services/trainer/strategies/losses.py",
            f"{LOSS_TESTS}::test_what_counts_fake_negatives_settles_where_full_labels_do",
            {"labels": "fake_negatives"},
            result="trivago/fake negatives weighed",
        ),
        Technique(
            "Fake negative calibration",
            "Ktena et al., 2019",
            "services/trainer/strategies/losses.py",
            f"{LOSS_TESTS}::",
            {"labels": "calibrated"},
        ),
        _loss(
            "Focal loss",
            "Lin et al., 2017",
            "focal(2)",
            "test_focal_loss_without_focus_is_cross_entropy",
            "trivago/focal 2",
        ),
        _loss(
            "Label smoothing",
            "Szegedy et al., 2016",
            "smoothed(0.05)",
            "test_smoothed_labels_are_cross_entropy_against_a_soft_label",
            "trivago/smoothed 0.05",
        ),
        _loss(
            "Class weight",
            "",
            "weighted(3)",
            "test_a_flip_takes_label_0_back_and_brings_label_1",
            "trivago/clicks weigh 3",
        ),
        _loss(
            "Reweighted positives (R-CE)",
            "Wang et al., 2021",
            "reweighted(0.2)",
            "test_the_weight_of_a_doubtful_positive_is_not_learned",
            "trivago/reweighted 0.2",
        ),
        _loss(
            "Truncated positives (T-CE)",
            "Wang et al., 2021",
            "truncated(0.01)",
            "test_unlikely_positives_count_less_or_not_at_all",
            "trivago/truncated 0.01",
        ),
        _strategy(
            "Over-sampling of rare items (repeat factors)",
            "Gupta et al., 2019",
            "rare_items(0.001, 8)",
            "oversampling",
            "test_the_sum_of_what_appears_and_flips_is_that_of_the_repeated_full_labels",
        ),
        _strategy(
            "Over-sampling of rare labels (repeat factors)",
            "Gupta et al., 2019",
            "rare_labels(0.1, 8)",
            "oversampling",
            "test_a_rare_label_counts_as_often_as_it_is_repeated_and_no_other",
        ),
        _strategy(
            "Virtual clicks of hardly shown items (a heuristic)",
            "",
            "virtual_clicks(50, 1)",
            "virtual",
            "test_the_row_of_a_rare_item_moves_and_nothing_else",
        ),
        Technique(
            "Position debiasing by inverse propensity",
            "Joachims et al., 2017",
            "services/trainer/strategies/weights.py",
            "tests/trainer/test_online.py::test_only_flips_are_weighted_by_place",
            {"position_power": 0.5},
            result="trivago/position debiased",
        ),
        Technique(
            "Active exploration of uncertain clicks (uncertainty sampling)",
            "Lewis, Gale, 1994",
            "services/gateway/rerank.py",
            "tests/gateway/test_rerank.py::test_what_is_explored_by_weight_is_drawn_as_often_as_it_says",
            how="`FRESHRANK_GATEWAY_EXPLORE_BY=uncertain`",
        ),
        Technique(
            "Off-policy figures: IPS, SNIPS, doubly robust",
            "Swaminathan, Joachims, 2015; Dudík et al., 2011",
            "services/publisher/offpolicy.py",
            "tests/publisher/test_offpolicy.py::",
            how="`FRESHRANK_PUBLISHER_OFFPOLICY`",
        ),
    ),
    "Compression of a release": (
        *(
            Technique(
                name,
                paper,
                f"services/publisher/compression/{module}.py",
                "tests/publisher/test_compression.py::",
                how=f"`FRESHRANK_PUBLISHER_COMPRESSION={line}`",
                result=f"compression/{line}",
            )
            for name, paper, module, line in (
                ("Magnitude pruning", "Han et al., 2015", "prune", "prune(0.5)"),
                ("Structured pruning", "Li et al., 2017", "units", "drop_units(0.25)"),
                ("Low-rank factorisation", "Sainath et al., 2013", "low_rank", "low_rank(0.9)"),
                ("fp16 weights", "", "halves", "fp16"),
                ("int8, dynamic and static", "Jacob et al., 2018", "int8", "int8_dynamic"),
            )
        ),
        Technique(
            "Rows of items as int8 with a scale each, or as halves",
            "Guan et al., 2019",
            "services/publisher/compression/rows.py",
            "tests/publisher/test_pump.py::test_the_gate_judges_rows_as_they_will_be_read_and_these_are_pushed",
            how="`FRESHRANK_PUBLISHER_ROW_CODEC=int8`",
        ),
    ),
    "Shops together": (
        Technique(
            "FedAvg; rows of items by key",
            "McMahan et al., 2017",
            "services/trainer/federated/model.py",
            "tests/trainer/federated/test_rounds.py::test_federated_averaging_of_one_shop_is_local_learning",
            how="`freshrank federate`, docs/federated.md",
            result="federated/fedavg, alike",
        ),
        Technique(
            "FedProx",
            "Li et al., 2020",
            "services/trainer/strategies/anchors.py",
            _strategy_test("test_the_proximal_term_is_the_gradient_of_its_formula"),
            {"strategy": "proximal(0.01)"},
            result="federated/fedprox 0.01, alike",
        ),
        Technique(
            "A server's step along the mean (FedOpt, by SGD)",
            "Reddi et al., 2021",
            "services/trainer/federated/coordinator.py",
            "tests/trainer/federated/test_rounds.py::test_a_servers_rate_goes_further_along_what_the_shops_moved",
            how="`freshrank federate serve --server-rate 2`",
            result="federated/fedavg, server's rate 2, alike",
        ),
        Technique(
            "Statistics of features that stay at a shop",
            "Li et al., 2021 (FedBN)",
            "services/trainer/federated/exchange.py",
            "tests/trainer/federated/test_rounds.py::test_nothing_of_a_shopper_leaves_a_shop",
            how="`freshrank federate`",
        ),
        Technique(
            "Secure aggregation (SecAgg+, by Flower)",
            "Bell et al., 2020",
            "services/trainer/federated/secure.py",
            "tests/trainer/federated/test_secure.py::test_it_gives_the_model_that_answers_in_the_open_give",
            how="`freshrank federate serve --secure`",
        ),
    ),
    "Ratings, one at a time": (
        Technique(
            "Biased factorisation",
            "Koren et al., 2009",
            "services/trainer/ratings/factorisation.py",
            "tests/trainer/ratings/test_factorisation.py::",
            how="`ratings.Factorisation`",
        ),
        Technique(
            "Implicit feedback: BPR, log-loss",
            "Rendle et al., 2009",
            "services/trainer/ratings/factorisation.py",
            "tests/trainer/ratings/test_factorisation.py::",
            how="`ratings.ImplicitFactorisation`",
        ),
        Technique(
            "A rating as heads of the ranker (ordinal steps)",
            "Frank, Hall, 2001",
            "services/trainer/scale.py",
            "tests/trainer/test_rating.py::test_ratings_are_expected_before_they_are_learned_and_better_than_their_mean",
            {
                "loss_weights": {"click": 1.0, "rated": 1.0, "two": 1.0, "three": 1.0},
                "rating": {"rated": 1.0, "two": 1.0, "three": 1.0},
            },
            result="stars/din",
        ),
        Technique(
            "Gaussian effects of known features",
            "Kalman, 1960",
            "services/trainer/ratings/effects.py",
            "tests/trainer/ratings/test_rating_effects.py::",
            how="`ratings.Effects`",
        ),
    ),
    "Looking and choosing": (
        Technique(
            "Progressive validation at deploy lags",
            "Blum et al., 1999",
            "services/trainer/evaluation/rehearsal.py",
            "tests/trainer/evaluation/test_rehearsal.py::test_a_late_deployment_serves_an_older_model",
            how="`freshrank evaluate`",
        ),
        Technique(
            "Thresholds by segment: F-beta or a precision floor, shrunken to that of all",
            "van Rijsbergen, 1979",
            "services/trainer/evaluation/thresholds.py",
            "tests/trainer/evaluation/test_thresholds.py::test_each_segment_has_its_own_and_does_better_by_it",
            how="`freshrank evaluate --beta 2`, `--precision 0.2`",
        ),
        Technique(
            "Experiment trackers: MLflow, Weights & Biases",
            "",
            "services/trainer/tracking.py",
            "tests/trainer/test_tracking.py::test_mlflow_has_what_tensorboard_has",
            {"trackers": 'mlflow("sqlite:///runs.db", "shop"), wandb("shop", offline)'},
        ),
        Technique(
            "Search of settings on earlier periods",
            "Akiba et al., 2019",
            "services/trainer/evaluation/tuning.py",
            "tests/trainer/evaluation/test_tuning.py::test_a_search_finds_the_rate_that_learns_and_goes_on_from_its_journal",
            how="`freshrank tune`",
        ),
        Technique(
            "Integrated gradients beside occlusion",
            "Sundararajan et al., 2017",
            "services/trainer/attribution.py",
            "tests/trainer/test_attribution.py::test_they_agree_with_occlusion_on_what_was_planted",
            how="`attribution.attribute`",
        ),
        Technique(
            "Maintenance policy: step, fine-tune, prune or full retrain",
            "",
            "services/trainer/maintenance.py",
            "tests/trainer/test_maintenance.py::test_the_dearest_that_is_due_is_chosen_and_says_its_figure",
            {"maintenance": "fine_tune(drift(adwin)), prune(0.8), retrain(time(604800))"},
        ),
        Technique(
            "Full retrain, judged against the incremental model by the release gate",
            "",
            "services/trainer/retrain.py",
            "tests/trainer/test_retrain.py::test_both_are_judged_on_the_same_lists_that_neither_has_learned",
            how="`freshrank retrain`",
        ),
        Technique(
            "Arms compared on shoppers by a sequential test",
            "Waudby-Smith et al., 2021",
            "services/publisher/arms/comparison.py",
            "tests/publisher/arms/test_referee.py::test_a_better_arm_is_promoted_and_gateways_are_told",
            how="`freshrank arms start`",
        ),
        Technique(
            "Learning from an arm's own shoppers only",
            "",
            "services/trainer/examples.py",
            "tests/trainer/test_online.py::test_an_arm_may_learn_from_its_own_shoppers_only",
            {"traffic": "own"},
        ),
    ),
}

MISSING = (
    "CUDA graphs and fused sparse updates on a GPU: the dense part is there, rows stay in memory, moved by numpy",
    "the next-item model behind a gateway: it is a study's and a library's, no release holds it",
)
"""Techniques that Freshrank does not offer (yet)."""


def every() -> Iterator[Technique]:
    """All of them."""
    for techniques in FAMILIES.values():
        yield from techniques


def exists(test: str) -> bool:
    """True for `file::function` that there is; `file::` stands for all of a file."""
    file, _, function = test.partition("::")
    path = ROOT / file
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text())
    return not function or any(isinstance(n, ast.FunctionDef) and n.name == function for n in ast.walk(tree))
