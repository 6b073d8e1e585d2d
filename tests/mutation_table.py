"""The mutations that ``python -m tests.mutations`` tries."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutation:
    """One line made wrong."""

    file: str
    line: str
    """Text that stands exactly once in the file."""
    wrong: str
    """What stands there instead."""
    test: str
    """The file or folder of the tests of which one must fail."""
    only: str = ""
    """pytest's -k, where the file is slow."""


_BY_HAND = "tests/train/test_by_hand.py"
_LOOP, _NOT_TWO = "tests/train/test_loop.py", "not two_workers"
_ATTENTION = "tests/models/test_other_attention.py"
_IMPORTANCE = "tests/features/importance"
_ORDER = "tests/preload/test_order.py"
_QUEUE, _WITHDRAWAL = "tests/search/test_queue.py", "tests/features/test_withdrawal.py"
_BUFFERS = "tests/train/test_buffers.py"
_FUSION = "tests/models/test_summary_probes.py"
_PROBE = "tests/models/test_probe.py"
_PLACES = "tests/reading/test_places.py"
_SIDE, _BACKBONE = "tests/models/test_side_network.py", "tests/models/test_backbone.py"
_SCORES, _INTERVALS = "tests/metrics/test_scores.py", "tests/metrics/test_intervals.py"
_RESAMPLED = "tests/metrics/test_resampled.py"
_LOSS, _TASKS = "tests/models/test_loss.py", "tests/train/test_tasks.py"
_STORE, _IMAGES, _CONFIG = "tests/features/test_store.py", "tests/images/test_images.py", "tests/config/test_config.py"
_SERVED, _REFUSED = "tests/serve/test_answers.py", "tests/serve/test_refusals.py"
_CALIBRATION, _CLASSIFIER = "tests/metrics/test_calibration.py", "tests/predict/test_classifier.py"
_GAIN = "tests/report/test_front_ensemble.py"
_CHECKS, _CHECKING = "tests/datasets/checks", "tests/datasets/test_checking.py"
_AUGMENTATION = "tests/images/test_augmentation.py"
_PICTURE, _DICOM = "tests/images/test_picture.py", "tests/images/test_dicom.py"
_LADDER = "tests/search/test_ladder.py"
_SEARCHER, _STOPPING = "tests/search/test_searcher.py", "tests/search/test_early_stopping.py"
_JOURNAL, _PICTURES = "tests/search/test_journal.py", "tests/search/test_pictures.py"
_VOLUMES, _VOLUME = "fpt_ray/metrics/hypervolume.py", "tests/metrics/test_hypervolume.py"
_IDENTITY, _COUNTED = "tests/config/test_identity.py", "tests/report/test_counted.py"
_PUBLISHED = "tests/datasets/published"
_LAYOUTS = f"{_PUBLISHED}/test_layouts.py"

MUTATIONS = (
    # --- intervals ------------------------------------------------------------------------------------------------
    Mutation(
        "fpt_ray/metrics/intervals.py",
        "None if seed_of_seeds is None else",
        "None if seed_of_seeds != 0 else",
        _INTERVALS,
    ),
    # --- one step -------------------------------------------------------------------------------------------------
    Mutation(
        "fpt_ray/models/step.py",
        '        nn.utils.clip_grad_norm_(group["params"], learner.clip_norm)\n',
        "        pass\n",
        _BY_HAND,
    ),
    Mutation("fpt_ray/models/step.py", "    learner.schedule.step()\n", "", _BY_HAND),
    Mutation(
        "fpt_ray/models/step.py",
        '"weight_decay": training.weight_decay',
        '"weight_decay": 0.0',
        _BY_HAND,
        "fpt or linear",
    ),
    Mutation("fpt_ray/models/step.py", "loss = losses.view(", "loss = -losses.view(", _BY_HAND),
    Mutation("fpt_ray/models/step.py", "    learner.model.zero_grad(set_to_none=True)\n", "", _BY_HAND),
    Mutation("fpt_ray/models/step.py", "torch.optim.AdamW(", "torch.optim.Adam(", _BY_HAND),
    Mutation(
        "fpt_ray/models/step.py",
        "learner.loss(logits.flatten(0, -2), make_labels(logits))",
        "learner.loss(logits.flatten(0, -2), make_labels(logits)) * 2",
        _BY_HAND,
    ),
    Mutation(
        "fpt_ray/models/step.py",
        "whole = loss if learner.adalora is None else loss + learner.adalora.regulariser()",
        "whole = loss",
        _BY_HAND,
        "adalora",
    ),
    Mutation(
        "fpt_ray/models/step.py",
        "        learner.adalora.allocate(number)\n",
        "        pass\n",
        "tests/models/test_methods.py",
        "adaloras_ranks",
    ),
    # --- the loop -------------------------------------------------------------------------------------------------
    Mutation("fpt_ray/train/loop.py", "steps * training.epochs, arithmetic", "steps, arithmetic", _BY_HAND),
    Mutation(
        "fpt_ray/train/loop.py",
        "size, (one.training.seed, epoch), balanced",
        "size, (one.training.seed, 1), balanced",
        _BY_HAND,
    ),
    Mutation(
        "fpt_ray/train/evaluation.py", "if drawn and any(map(has_dropout, trials)):", "if False:", _BY_HAND, "fpt"
    ),
    Mutation(
        "fpt_ray/models/side_network.py",
        "masks.transpose(0, 1).div_(1 - side.prompt_dropout)",
        "masks.transpose(0, 1)",
        _LOOP,
        "dropout",
    ),
    Mutation(
        "fpt_ray/models/side_network.py",
        "(training.seed, epoch, int(row), 1)",
        "(training.seed, 0, int(row), 1)",
        _LOOP,
        "dropout",
    ),
    Mutation("fpt_ray/train/loop.py", "    learner.model.train()\n", "", _LOOP, "mode"),
    Mutation("fpt_ray/train/evaluation.py", "    model.eval()\n", "", _LOOP, "mode"),
    Mutation("fpt_ray/train/snapshots.py", "if one.picking > before.val_score", "if True", _LOOP, "best"),
    Mutation("fpt_ray/train/snapshots.py", "> before.val_score", ">= before.val_score", _LOOP, "best"),
    Mutation("fpt_ray/train/snapshots.py", "model=_copied(state)", "model=state", _LOOP, "best"),
    Mutation(
        "fpt_ray/train/snapshots.py",
        "    learner.schedule.load_state_dict({**schedules[0], **each})\n",
        "",
        _LOOP,
        "resumed",
    ),
    Mutation(
        "fpt_ray/train/snapshots.py",
        "    learner.optimizer.load_state_dict(_joined([one.optimizer for one in found]))\n",
        "",
        _LOOP,
        "resumed",
    ),
    Mutation(
        "fpt_ray/train/loop.py",
        "best, done = [one.best for one in resume], resume[0].epoch",
        "done = resume[0].epoch",
        _LOOP,
        "resumed",
    ),
    Mutation("fpt_ray/train/loop.py", "    mean = total / len(own)\n", "    mean = total\n", _LOOP, "mean_loss"),
    Mutation("fpt_ray/train/loop.py", "(epoch - 1) * len(own) + step,", "step,", _LOOP, "count"),
    Mutation("fpt_ray/train/evaluation.py", "if assignment.num_workers == 1:", "if True:", _LOOP, "two_workers"),
    Mutation("fpt_ray/train/loop.py", "        if not resume:\n", "        if True:\n", _LOOP, "neighbours"),
    Mutation(
        "fpt_ray/train/evaluation.py",
        "rows.row_ids[start : start + size]",
        "rows.row_ids[start + 1 : start + size]",
        _LOOP,
    ),
    Mutation(
        "fpt_ray/models/loss.py",
        "counts.sum() / (len(target.classes) * counts.float())",
        "counts.sum() / counts.float()",
        _BY_HAND,
    ),
    # --- the order ------------------------------------------------------------------------------------------------
    Mutation(
        "fpt_ray/train/order.py",
        "steps = num_rows // batch_size",
        "steps = num_rows // batch_size - 1",
        _LOOP,
        "epoch_visits",
    ),
    Mutation(
        "fpt_ray/train/order.py",
        "[generator.permutation(strand)[:steps]",
        "[strand[:steps]",
        _LOOP,
        "epoch_visits or shuffled",
    ),
    Mutation(
        "fpt_ray/train/order.py",
        "for strand in strands], axis=1)",
        "for strand in strands]).reshape(steps, -1)",
        _LOOP,
        "strands",
    ),
    # --- the networks ---------------------------------------------------------------------------------------------
    Mutation(
        "fpt_ray/models/side_network.py",
        "project(summary + prompts) if self.plus",
        "project(summary) if self.plus",
        _SIDE,
    ),
    Mutation("fpt_ray/models/side_network.py", "else project(summary) + prompts", "else project(summary)", _SIDE),
    Mutation("fpt_ray/models/side_network.py", "permute(1, 2, 0) * self.scale", "permute(1, 2, 0)", _SIDE),
    Mutation(
        "fpt_ray/models/side_block.py",
        "torch.softmax(products, dim=-1 if few else -2,",
        "torch.softmax(products, dim=-1,",
        _SIDE,
    ),
    Mutation(
        "fpt_ray/models/side_block.py",
        "(bias.mT if few else bias)",
        "(0 * bias.mT if few else bias)",
        _FUSION,
    ),
    Mutation("fpt_ray/models/side_block.py", "(maps @ values).transpose(1, 2)", "(maps @ values)", _PROBE),
    Mutation(
        "fpt_ray/models/side_network.py",
        "fused = self.fusion(layer, keys[layer], values[layer], mask)",
        "fused = self.fusion(layer, keys[-1], values[-1], mask)",
        _SIDE,
    ),
    Mutation("fpt_ray/models/side_network.py", "fused * keep_mask", "fused", _SIDE),
    Mutation("fpt_ray/models/side_network.py", "dim=1) + self.pos_embed", "dim=1)", _SIDE),
    Mutation(
        "fpt_ray/models/side_network.py",
        "num_tokens if layer < len(self.blocks) - 1 else 1",
        "tokens.shape[1]",
        _SIDE,
    ),
    Mutation("fpt_ray/models/side_block.py", "attend((queries * self.scale)", "attend(queries", _SIDE, "gradients"),
    Mutation("fpt_ray/models/side_block.py", "read = tokens[:, :num_read] + self", "read = self", _SIDE, "gradients"),
    Mutation("fpt_ray/train/buffers.py", "kept.numel() < size", "False", _BUFFERS),
    Mutation("fpt_ray/train/buffers.py", "self._kept[name] = torch", "torch", _BUFFERS),
    Mutation(
        "fpt_ray/models/importance.py",
        "descending=True, stable=True",
        "descending=False, stable=True",
        _BACKBONE,
        "by_hand",
    ),
    Mutation(
        "fpt_ray/models/lpm_attention.py",
        "queries=self.queries[:, :, :1]",
        "queries=self.queries[:, :, -1:]",
        _BACKBONE,
        "by_hand",
    ),
    Mutation(
        "fpt_ray/models/lpm_attention.py",
        "return total / num_queries",
        "return total / heads",
        _BACKBONE,
        "mean_attention",
    ),
    Mutation(
        "fpt_ray/models/lpm_attention.py",
        "scores + bias, dim=-1)",
        "scores + bias, dim=-2)",
        _BACKBONE,
        "by_hand",
    ),
    Mutation(
        "fpt_ray/models/importance.py",
        "(layers[block].attn) for block in blocks]",
        "(layers[block].attn) for block in range(len(blocks))]",
        _BACKBONE,
        "by_hand",
    ),
    Mutation(
        "fpt_ray/models/importance.py",
        "heard.values.gather(2, at), tokens",
        "heard.keys.gather(2, at), tokens",
        _BACKBONE,
        "by_hand",
    ),
    Mutation(
        "fpt_ray/models/lpm_attention.py",
        "keys - keys.mean(dim=2, keepdim=True)",
        "keys",
        _BACKBONE,
        "have_in_common",
    ),
    Mutation(
        "fpt_ray/models/lpm_attention.py",
        "is_plain = not any(other.values()) and (attn_mask is None or attn_mask.is_floating_point())",
        "is_plain = True",
        _BACKBONE,
        "left_to_pytorch",
    ),
    Mutation(
        "fpt_ray/models/lpm_attention.py",
        "return maps @ self.values",
        "return maps @ self.keys",
        _BACKBONE,
        "same_maps",
    ),
    Mutation(
        "fpt_ray/models/importance.py",
        "output, scores = attention_and_mean(heard, score_bytes)",
        "scores = mean_attention(heard, score_bytes)",
        _BACKBONE,
        "made_once",
    ),
    Mutation(
        "fpt_ray/models/lpm_attention.py",
        "if output is None else output",
        "if False else output",
        _BACKBONE,
        "made_once",
    ),
    Mutation(
        "fpt_ray/models/lpm_attention.py",
        "(heard.queries * heard.scale).split",
        "heard.queries.split",
        _BACKBONE,
        "by_hand",
    ),
    # --- tasks ----------------------------------------------------------------------------------------------------
    Mutation("fpt_ray/models/loss.py", "torch.where(labels.isnan(), 0.0, losses)", "losses.nan_to_num()", _LOSS),
    Mutation(
        "fpt_ray/models/loss.py", "F.pad(F.logsigmoid(logits).cumsum(-1), (1, 0))", "F.pad(logits, (1, 0))", _LOSS
    ),
    Mutation("fpt_ray/models/loss.py", "return logits * deviation + mean", "return logits", _TASKS, "unit_alone"),
    Mutation("fpt_ray/models/loss.py", "(-torch.expm1(told))", "torch.exp(told)", _LOSS),
    Mutation(
        "fpt_ray/models/methods.py",
        "learnable = {UNIT, *(name",
        "learnable = {*(name",
        _TASKS,
        "head and regression and linear_probing",
    ),
    Mutation(
        "fpt_ray/models/summary_probes.py",
        "votes > 0, having / votes",
        "votes > 0, votes / votes",
        _TASKS,
        "neighbours",
    ),
    Mutation("fpt_ray/train/order.py", "shares = shares / shares.sum(axis=0)", "pass", _LOOP, "balanced"),
    Mutation("fpt_ray/config/identity.py", "if value not in _UNSAID.get(name, ())", "", _IDENTITY),
    # --- numbers --------------------------------------------------------------------------------------------------
    Mutation(
        "fpt_ray/metrics/columns.py",
        "roc_auc_score(positive, scores)",
        "roc_auc_score(positive, -scores)",
        _SCORES,
    ),
    Mutation(
        "fpt_ray/metrics/columns.py",
        "column.has_both and column.number >= first",
        "column.number >= first",
        _SCORES,
    ),
    Mutation("fpt_ray/metrics/columns.py", "~np.isnan(labels[:, number])", "np.ones(len(labels), bool)", _SCORES),
    Mutation("fpt_ray/metrics/columns.py", "right[wrong <= 1 - AT + _ROUNDING]", "right[wrong <= AT]", _SCORES),
    Mutation(
        "fpt_ray/metrics/scores.py",
        "passed = 1 - probabilities.cumsum(axis=1)[:, :-1]",
        "passed = probabilities.cumsum(axis=1)[:, :-1]",
        _SCORES,
    ),
    Mutation("fpt_ray/metrics/scores.py", "math.log10(memory_ratio + 1)", "math.log(memory_ratio + 1)", _SCORES),
    Mutation("fpt_ray/metrics/scores.py", 'weights="quadratic"', 'weights="linear"', _SCORES),
    Mutation(
        "fpt_ray/metrics/scores.py",
        "sklearn_metrics.confusion_matrix(labels, guesses",
        "sklearn_metrics.confusion_matrix(guesses, labels",
        _SCORES,
    ),
    Mutation(
        "fpt_ray/metrics/resampled.py", "np.cumsum(downs, axis=1) - downs / 2", "np.cumsum(downs, axis=1)", _INTERVALS
    ),
    Mutation(
        "fpt_ray/metrics/resampled.py", "(labels - guesses) ** 2 / size", "abs(labels - guesses) / size", _RESAMPLED
    ),
    Mutation("fpt_ray/metrics/resampled.py", "sizes + (sizes + 1) / 2", "sizes + 1", _RESAMPLED),
    Mutation("fpt_ray/metrics/intervals.py", "((1 - LEVEL) / 2, (1 + LEVEL) / 2)", "(1 - LEVEL, LEVEL)", _INTERVALS),
    Mutation(
        "fpt_ray/metrics/intervals.py",
        "one.mean(axis=0) for one in each",
        "one[0] for one in each",
        _INTERVALS,
    ),
    Mutation(
        "fpt_ray/metrics/pareto.py",
        "as_bad = (others <= gain).all(axis=1)",
        "as_bad = (others <= gain).any(axis=1)",
        _SCORES,
    ),
    Mutation(
        "fpt_ray/metrics/pareto.py",
        "(as_bad & (others < gain).any(axis=1))",
        "(as_bad & (others < gain).all(axis=1))",
        _SCORES,
    ),
    Mutation("fpt_ray/metrics/pareto.py", '1.0 if mode == "max" else -1.0', '-1.0 if mode == "max" else 1.0', _SCORES),
    Mutation(_VOLUMES, "np.append(gains[1:, -1], 0.0)", "np.append(gains[1:, -1], 1.0)", _VOLUME),
    Mutation(_VOLUMES, "hypervolume(np.minimum(front, gain))", "hypervolume(front)", _VOLUME),
    Mutation(_VOLUMES, "(outside >= gain).any(axis=1)", "(outside >= gain).all(axis=1)", _VOLUME),
    Mutation("fpt_ray/search/pictures.py", "gains, 0.0)", "gains, gains)", _PICTURES, "constraint"),
    Mutation(
        "fpt_ray/cost/remembered.py",
        "        made.set_(storage, offset, size, stride)\n",
        "        pass\n",
        "tests/cost/test_remembered.py",
        "second_call",
    ),
    # --- the store ------------------------------------------------------------------------------------------------
    Mutation(
        "fpt_ray/features/spec.py",
        "for block in cut.blocks\n",
        "for block in cut.blocks[:1]\n",
        _STORE,
    ),
    Mutation("fpt_ray/features/spec.py", "if band.start < cut.num_kept", "if band.stop <= cut.num_kept", _STORE),
    Mutation("fpt_ray/features/spec.py", "else weights_digest,", 'else "",', _STORE),
    Mutation(
        "fpt_ray/features/rows.py",
        "= band[:, :, : stop - column.ranks.start]",
        "= band[:, :, column.ranks.start - stop :]",
        _STORE,
    ),
    Mutation(
        "fpt_ray/features/rows.py",
        "(self.row_ids >= share.start) & (self.row_ids < share.stop)",
        "(self.row_ids >= share.start) & (self.row_ids <= share.stop)",
        _STORE,
    ),
    Mutation("fpt_ray/features/rows.py", "np.s_[:, :, :kept]", "np.s_[:, :, -kept:]", _STORE),
    Mutation(
        "fpt_ray/features/rows.py",
        "        self._check_images(ids, found)\n",
        "",
        "tests/faults/test_stores.py",
        "swapped",
    ),
    Mutation(
        "fpt_ray/features/joining.py",
        "np.flatnonzero(read_index(store).find(table.hashes()) < 0)",
        "np.arange(0)",
        _STORE,
    ),
    Mutation(
        "fpt_ray/features/joining.py",
        "order = table.by_hash()",
        "order = np.arange(len(table))",
        "tests/preload/test_order.py",
    ),
    Mutation(
        "fpt_ray/images/digest.py",
        "*labels.reshape(len(labels), -1).T, names]",
        "names]",
        "tests/images/test_table.py",
        "json",
    ),
    Mutation("fpt_ray/images/splits.py", " & (table.splits < 0).all()", "", "tests/images/test_folds.py", "never"),
    Mutation("fpt_ray/images/folds.py", "== number - 1", "<= number - 1", "tests/images/test_folds.py", "never"),
    Mutation(
        "fpt_ray/datasets/decoded.py",
        "return 3 * width * height >= kept_bytes(preparation.resolution)",
        "return True",
        "tests/preload/test_decoded.py",
        "small",
    ),
    Mutation("fpt_ray/preload/pace.py", "< _LONG_ENOUGH_S and", "< 0 and", "tests/preload/test_pace.py", "quick"),
    Mutation(
        "fpt_ray/features/joining.py",
        "else table.weights[inside]",
        "else table.weights[: len(inside)]",
        "tests/reading/test_places.py",
        "weight",
    ),
    Mutation("fpt_ray/images/labels.py", "| (found == 1)", "| (found != 0)", "tests/images/test_tasks.py", "not_fit"),
    Mutation(
        "fpt_ray/storage/local.py",
        "if not (sure and _is_within(root, folder)):",
        "if not sure:",
        "tests/storage/test_conformance.py",
        "first_link",
    ),
    Mutation("fpt_ray/features/places.py", "first * size + wanted % size", "wanted % size", _STORE),
    Mutation("fpt_ray/features/places.py", "np.searchsorted(held, rows[at])", "rows[at] % len(held)", _PLACES),
    Mutation("fpt_ray/reading/on_device.py", "np.searchsorted(self.row_ids, ", "(", _PLACES),
    Mutation("fpt_ray/reading/host_disk.py", "written + size > disk.limit_bytes", "False", _PLACES),
    Mutation("fpt_ray/reading/places.py", "size <= room.memory", "size >= room.memory", _PLACES),
    Mutation("fpt_ray/reading/places.py", "{**self.shared, features.uri: rows}", "self.shared", _PLACES, "made_later"),
    Mutation("fpt_ray/train/buffers.py", "self._read[turn % 2]", "self._read[0]", _BUFFERS),
    Mutation("fpt_ray/models/summary_probes.py", "tokens, self.preferences", "tokens", _FUSION),
    Mutation(
        "fpt_ray/models/summary_probes.py",
        "normalised(summaries[:, -1, 0]))",
        "normalised(summaries[:, -1, 1]))",
        _FUSION,
    ),
    Mutation("fpt_ray/models/summary_probes.py", "(nearest / _TEMPERATURE).exp()", "nearest.exp()", _FUSION),
    Mutation(
        "fpt_ray/models/summary_probes.py",
        "nullcontext() if plain else torch.autocast",
        "nullcontext() if True else torch.autocast",
        _FUSION,
    ),
    Mutation("fpt_ray/models/probe.py", "self.queries * SCALE", "self.queries", _PROBE),
    Mutation("fpt_ray/models/batch_norm.py", "variance * size / max(1, size - 1)", "variance", _PROBE),
    Mutation("fpt_ray/models/batch_norm.py", "self.mean, self.variance]", "self.mean, self.mean]", _PROBE),
    Mutation("fpt_ray/features/withdrawal.py", "gone.find(rows) < 0", "gone.find(rows) >= -1", _STORE, "forg"),
    Mutation("fpt_ray/features/verification.py", "earlier if store.removed else []", "[]", _STORE, "forg"),
    Mutation(
        "fpt_ray/features/shards.py",
        "if notes.get(DIGEST_KEY) != spec.digest.encode():",
        "if False:",
        "tests/faults/test_stores.py",
        "swapped",
    ),
    Mutation(
        "fpt_ray/features/shards.py",
        "        _check_finite(features, images, spec)\n",
        "        pass\n",
        "tests/faults/test_stores.py",
        "nan",
    ),
    Mutation(
        "fpt_ray/preload/extraction.py",
        "if found is None or not np.array_equal(found[1], plan.images.hashes()):",
        "if found is None:",
        "tests/faults/test_stores.py",
        "two_preloads",
    ),
    Mutation("fpt_ray/features/store.py", "        if has != wants:\n", "        if False:\n", _STORE),
    Mutation(
        "fpt_ray/features/store.py",
        "        if found != shard.bytes:\n",
        "        if found is None:\n",
        "tests/faults/test_stores.py",
        "cut_short",
    ),
    Mutation("fpt_ray/features/index.py", "fresh = known.find(self.hashes) < 0", "fresh = self.rows >= 0", _STORE),
    Mutation("fpt_ray/features/store.py", "if entry.path not in listed", "", _STORE),
    Mutation("fpt_ray/features/store.py", "first = len(store.shards)\n", "first = 0\n", _STORE),
    # --- the images -----------------------------------------------------------------------------------------------
    Mutation(
        "fpt_ray/images/picture.py",
        "_between(values, low, low + width - 1)",
        "_between(values, low, low + width)",
        _PICTURE,
    ),
    Mutation("fpt_ray/images/picture.py", "top + (height - side) // 2, side, side)", "top, side, side)", _PICTURE),
    Mutation("fpt_ray/datasets/checks/pictures.py", "high - low < _FAINT", "high < _FAINT", _CHECKS, "grey_levels"),
    Mutation("fpt_ray/images/dicom.py", 'white_is_zero=colours == "MONOCHROME1"', "white_is_zero=False", _DICOM),
    Mutation("fpt_ray/images/dicom.py", "* slope + intercept).astype", "* slope).astype", _DICOM, "rescaled"),
    Mutation("fpt_ray/features/spec.py", ", *self.chosen}", "}", _STORE, "every_way"),
    Mutation(
        "fpt_ray/images/augmentation.py",
        "column([draw.flip for draw in draws])",
        "column([draw.flip_vertically for draw in draws])",
        _AUGMENTATION,
    ),
    Mutation(
        "fpt_ray/images/augmentation.py",
        "np.random.default_rng((seed, epoch, row))",
        "np.random.default_rng((seed, row))",
        _AUGMENTATION,
    ),
    Mutation(
        "fpt_ray/images/augmentation.py",
        "inside = inside.clamp(min=0).minimum(length - 1)",
        "inside = inside.clamp(min=0)",
        _AUGMENTATION,
    ),
    Mutation(
        "fpt_ray/images/augmentation.py",
        "before = factors([draw.brightness if draw.brightness_first",
        "before = factors([draw.brightness if not draw.brightness_first",
        _AUGMENTATION,
    ),
    Mutation(
        "fpt_ray/images/augmentation.py",
        "torch.stack((x.float().expand(shape), y.float().expand(shape)), dim=-1)",
        "torch.stack((y.float().expand(shape), x.float().expand(shape)), dim=-1)",
        _AUGMENTATION,
    ),
    Mutation(
        "fpt_ray/images/augmentation.py",
        "angle.cos() * right - angle.sin() * below",
        "angle.cos() * right + angle.sin() * below",
        _AUGMENTATION,
    ),
    Mutation("fpt_ray/images/augmentation.py", "range(-reach, reach + 1)):", "range(-reach, reach)):", _AUGMENTATION),
    Mutation(
        "fpt_ray/images/pixels.py",
        "return (images - centre) / spread",
        "return (images - centre) * spread",
        _IMAGES,
        "normalise",
    ),
    # --- the search -----------------------------------------------------------------------------------------------
    Mutation(
        "fpt_ray/config/objectives.py",
        "(value - self.high) / abs(self.high or 1)",
        "(self.high - value) / abs(self.high or 1)",
        _COUNTED,
    ),
    Mutation(
        "fpt_ray/config/objectives.py",
        "(self.low - value) / abs(self.low or 1)",
        "(value - self.low) / abs(self.low or 1)",
        _COUNTED,
    ),
    Mutation("fpt_ray/config/objectives.py", "else max(over, under)", "else min(over, under)", _COUNTED),
    Mutation("fpt_ray/config/space.py", "self.low <= value <= self.high", "self.low < value < self.high", _CONFIG),
    Mutation(
        "fpt_ray/config/space.py",
        "return self.values()[-1] if self.step is not None else self.high",
        "return self.low",
        _CONFIG,
    ),
    Mutation("fpt_ray/config/space.py", "all(values.get(other) in wanted", "any(values.get(other) in wanted", _CONFIG),
    Mutation(
        "fpt_ray/search/limits.py",
        "for name, value in excess.items() if value > 0]",
        "for name, value in excess.items() if value > 1]",
        _SEARCHER,
        "breaks_a_constraint or memory_that_ran_out",
    ),
    Mutation(
        "fpt_ray/search/limits.py",
        'trial.set_constraint("deaths", float(RESTARTS + 1))',
        "pass",
        _SEARCHER,
        "became or crashes",
    ),
    Mutation(
        "fpt_ray/search/queue.py",
        "key=lambda trial: (-val_score(trial, space), trial.number)",
        "key=lambda trial: (val_score(trial, space), trial.number)",
        _SEARCHER,
        "confirmed or front",
    ),
    Mutation(
        "fpt_ray/search/queue.py",
        "return min(max(value, row.low), row.high)",
        "return max(value, row.low)",
        _SEARCHER,
        "nearest",
    ),
    Mutation("fpt_ray/search/early_stopping.py", "share = 1 - 1 / REDUCTION", "share = 1 / REDUCTION", _STOPPING),
    Mutation("fpt_ray/search/early_stopping.py", "all(a <= b for a, b in", "all(a >= b for a, b in", _STOPPING),
    Mutation("fpt_ray/search/early_stopping.py", "return score < float(", "return score > float(", _STOPPING),
    Mutation("fpt_ray/search/early_stopping.py", "        others.append((score, costs))\n", "", _STOPPING),
    Mutation(
        "fpt_ray/search/journal.py",
        'whole = journal.read_bytes().rpartition(b"\\n")',
        'whole = (journal.read_bytes(), b"", b"")',
        "tests/faults/test_disk.py",
        "half_an_entry",
    ),
    Mutation(
        "fpt_ray/search/journal.py",
        "self.logs.extend(json.loads(content)",
        "list(json.loads(content)",
        _JOURNAL,
        "reads_on",
    ),
    Mutation("fpt_ray/search/journal.py", "        self.ends.append(len(self.logs))\n", "", _JOURNAL, "reads_on"),
    Mutation("fpt_ray/search/journal.py", 'after=_name(end - 1) if end else ""', 'after=""', _JOURNAL, "hundred"),
    Mutation(
        "fpt_ray/search/journal.py",
        "        self._compact()\n",
        "",
        _JOURNAL,
        "kill or not_read_again",
    ),
    Mutation(
        "fpt_ray/search/journal.py",
        "if len(objects) != piece.span:",
        "if len(objects) > piece.span:",
        _JOURNAL,
        "short_one",
    ),
    Mutation("fpt_ray/search/journal.py", "piece.start > end for piece", "piece.start < 0 for piece", _JOURNAL, "gap"),
    # --- what stays of a trial ------------------------------------------------------------------------------------
    Mutation(
        "fpt_ray/train/checkpoint.py",
        "return (*self.finished, *(one.best for one in self.current))",
        "return (*(one.best for one in self.current), *self.finished)",
        _LOOP,
        "checkpoint",
    ),
    Mutation(
        "fpt_ray/train/seeds.py",
        "trials = [with_seed(member.trial, seed) for",
        "trials = [member.trial for",
        "tests/train/test_seeds.py",
    ),
    Mutation(
        "fpt_ray/train/seeds.py",
        'f"val_{picks}": statistics.fmean(found),',
        'f"val_{picks}": found[-1],',
        "tests/train/test_seeds.py",
    ),
    Mutation(
        "fpt_ray/train/seeds.py",
        "strict=True)], [()] * len(members)",
        "strict=True)], current",
        "tests/train/test_seeds.py",
    ),
    Mutation(
        "fpt_ray/train/seeds.py",
        "finished * num_epochs(trial) + sum(",
        "sum(",
        "tests/train/test_seeds.py",
    ),
    Mutation("fpt_ray/train/seeds.py", "train=one.train + worked", "train=worked", "tests/train/test_seeds.py"),
    Mutation(
        "fpt_ray/train/checkpoint.py", "if checkpoint.identity != identity:", "if False:", "tests/train/test_seeds.py"
    ),
    # --- seeds together -------------------------------------------------------------------------------------------
    Mutation(
        "fpt_ray/models/step.py",
        "for group in learner.optimizer.param_groups:",
        "for group in learner.optimizer.param_groups[:1]:",
        "tests/train/test_seeds.py",
        "together",
    ),
    Mutation(
        "fpt_ray/models/step.py",
        "zip(own, trainings, strict=True)",
        "zip(own, [trainings[0]] * len(own), strict=True)",
        "tests/train/test_seeds.py",
        "trials_together",
    ),
    Mutation(
        "fpt_ray/models/together.py",
        "            one.fill_(torch.nan)\n",
        "            pass\n",
        "tests/train/test_seeds.py",
        "stays_lost",
    ),
    Mutation(
        "fpt_ray/train/loop.py",
        'lost=learner.lost.get(at, ""),',
        'lost=learner.lost.get(0, ""),',
        "tests/train/test_seeds.py",
        "lost_by_itself",
    ),
    Mutation(
        "fpt_ray/train/seeds.py",
        "- started) / len(members)",
        "- started)",
        "tests/train/test_seeds.py",
        "share_the_time",
    ),
    Mutation(
        "fpt_ray/train/snapshots.py",
        'group = optimizer["param_groups"][at]',
        'group = optimizer["param_groups"][0]',
        "tests/train/test_seeds.py",
        "trials_together",
    ),
    Mutation(
        "fpt_ray/search/searcher.py",
        "            self.trials[trial_id].append(self.held.pop(0)[0])\n",
        "            self.held.pop(0)\n",
        _SEARCHER,
        "wait_for_others",
    ),
    Mutation(
        "fpt_ray/models/together.py",
        "        if not self.apart:\n",
        "        if True:\n",
        "tests/train/test_seeds.py",
        "other_blocks",
    ),
    Mutation(
        "fpt_ray/train/evaluation.py",
        "np.tile(rows.row_ids[start : start + size], times)",
        "np.repeat(rows.row_ids[start : start + size], times)",
        "tests/train/test_seeds.py",
        "other_blocks",
    ),
    Mutation(
        "fpt_ray/reading/of_each.py", "narrow(axis, at * shape[axis], ", "narrow(axis, 0, ", _PLACES, "other_blocks"
    ),
    Mutation("fpt_ray/reading/of_each.py", "IMAGE_AXES.get(name, 0)", "0", _PLACES, "other_blocks"),
    Mutation(
        "fpt_ray/reading/of_each.py", "{id(one): one for one in readers}.values()", "readers", _PLACES, "other_blocks"
    ),
    Mutation(
        "fpt_ray/reading/places.py",
        "trial_rows(trial, store, split, reading, device)",
        "trial_rows(trial, stores[0], split, reading, device)",
        _PLACES,
        "several_stores",
    ),
    Mutation(
        "fpt_ray/reading/places.py",
        "        if key not in made:\n            made",
        "        if True:\n            made",
        _PLACES,
        "theirs_together",
    ),
    Mutation("fpt_ray/features/places.py", "rows[at] % sizes[at]", "rows[at]", _STORE, "several_rows"),
    Mutation(
        "fpt_ray/tune/worker.py",
        "networks, len({one.values",
        "networks, 0 * len({one.values",
        "tests/tune/test_resources.py",
        "on_a_gpu_count",
    ),
    Mutation(
        "fpt_ray/tune/worker.py",
        'trials if "side.blocks" in proposal.values else 1',
        "1",
        "tests/tune/test_resources.py",
        "on_a_gpu_count",
    ),
    Mutation("fpt_ray/search/searcher.py", "self.space.shape_of(asked[1]) == shape and", "", _SEARCHER, "one_shape"),
    Mutation("fpt_ray/search/asking.py", "min(found.waiting, due)", "found.waiting", _SEARCHER, "left_is_known"),
    Mutation("fpt_ray/search/queue.py", "space.shape_of(point) or point", "point", _SEARCHER, "wherever_they_stand"),
    Mutation(
        "fpt_ray/search/searcher.py",
        "zip(trials, messages, strict=True)",
        "zip(trials, messages[:1] * len(messages), strict=True)",
        _SEARCHER,
        "its_own",
    ),
    Mutation(
        "fpt_ray/search/asking.py",
        "self.study.sampler = keeping_to(fixed, sampler)",
        "self.study.sampler = sampler",
        _SEARCHER,
        "leaves_a_shape",
    ),
    Mutation(
        "fpt_ray/search/asking.py", "range(_ASKS if fixed is None else _REPEATS)", "range(_ASKS)", _SEARCHER, "used_up"
    ),
    Mutation(
        "fpt_ray/tune/log.py",
        '{"startup_seconds": waited / len(proposals)}',
        '{"startup_seconds": waited + 1}',
        "tests/tune/test_log.py",
        "runs_of_their_own",
    ),
    Mutation(
        "fpt_ray/tune/worker.py",
        'space.early_stopping == "none" and ',
        "",
        "tests/tune/test_resources.py",
    ),
    Mutation(
        "fpt_ray/tune/worker.py",
        " and self._has_small_batches(proposal, networks)",
        "",
        "tests/tune/test_resources.py",
    ),
    Mutation(
        "fpt_ray/tune/resources.py",
        "math.ceil(left / (self.at_once or 1)) if",
        "left if",
        "tests/tune/test_resources.py",
    ),
    Mutation(
        "fpt_ray/models/together.py",
        "value[at].clone() for name",
        "value[0].clone() for name",
        "tests/train/test_seeds.py",
        "together",
    ),
    Mutation(
        "fpt_ray/train/evaluation.py",
        "dropout_masks(one, ids, epoch)",
        "dropout_masks(trial, ids, epoch)",
        "tests/train/test_seeds.py",
        "together",
    ),
    Mutation(
        "fpt_ray/train/evaluation.py",
        "seed=one.training.seed",
        "seed=trial.training.seed",
        "tests/train/test_seeds.py",
    ),
    Mutation(
        "fpt_ray/train/snapshots.py",
        "_joined([one.optimizer",
        "_joined([found[0].optimizer",
        "tests/train/test_seeds.py",
        "together",
    ),
    Mutation(
        "fpt_ray/search/early_stopping.py",
        "None if first.repeat or report.finished else",
        "None if report.finished else",
        _STOPPING,
    ),
    Mutation(
        "fpt_ray/tune/worker.py",
        "trials * first.seeds if trials > 1 or self.together(first) else 1",
        "1",
        "tests/tune/test_resources.py",
    ),
    # --- which question a number answers, and which trials count --------------------------------------------------
    Mutation(
        "fpt_ray/config/identity.py",
        "json.dumps(dict(identity), sort_keys=True)",
        "json.dumps(sorted(identity))",
        _IDENTITY,
    ),
    Mutation(
        "fpt_ray/config/identity.py",
        "json.dumps(dict(identity), sort_keys=True)",
        "json.dumps(dict(identity))",
        _IDENTITY,
    ),
    Mutation("fpt_ray/config/identity.py", "or one[name] != other[name]", "", _IDENTITY),
    Mutation(
        "fpt_ray/config/identity.py", "for name in sorted({*one, *other}):", "for name in sorted(one):", _IDENTITY
    ),
    Mutation("fpt_ray/config/objectives.py", "math.inf if math.isnan(value) else max", "max", _COUNTED),
    Mutation(
        "fpt_ray/tracking/records.py",
        'return self.status == "FINISHED" and not self.pruned',
        'return self.status == "FINISHED"',
        _COUNTED,
    ),
    Mutation(
        "fpt_ray/tracking/records.py", "        and not broken_by(record, constraints)\n", "", _COUNTED
    ),
    Mutation(
        "fpt_ray/tracking/records.py",
        "math.isfinite(record.metrics.get(name, math.nan)) for",
        "name in record.metrics for",
        _COUNTED,
    ),
    Mutation(
        "fpt_ray/tracking/records.py",
        'return self.stage in ("choose", "confirm")',
        'return self.stage in ("choose",)',
        _COUNTED,
    ),
    Mutation(
        "fpt_ray/report/front.py",
        "finished = counted(records, constraints, objectives)",
        "finished = counted(records, {}, objectives)",
        _COUNTED,
    ),
    Mutation(
        "fpt_ray/report/front.py",
        "pareto_front(points, tuple(objectives.values()))",
        'pareto_front(points, ("max",) * len(objectives))',
        _COUNTED,
    ),
    Mutation(
        "fpt_ray/report/front.py",
        'metrics.get(f"test_{score}", metrics[f"val_{score}"])',
        'metrics[f"val_{score}"]',
        _COUNTED,
    ),
    Mutation("fpt_ray/report/what_if.py", "counted(records, constraints, (", "counted(records, {}, (", _COUNTED),
    Mutation("fpt_ray/report/what_if.py", "math.inf) <= limit]", "math.inf) < limit]", _COUNTED),
    Mutation("fpt_ray/report/what_if.py", "-record.metrics[name])", "record.metrics[name])", _COUNTED),
    Mutation(
        "fpt_ray/search/queue.py",
        "key=lambda one: (feasible(one, space.constraints), val_score(one, space))",
        "key=lambda one: feasible(one, space.constraints)",
        _SEARCHER,
        "grid",
    ),
    Mutation(
        "fpt_ray/search/attributes.py",
        "trial.state == TrialState.COMPLETE and math.isfinite(val_score(trial, space))",
        "math.isfinite(val_score(trial, space))",
        _SEARCHER,
        "confirmed or grid or front",
    ),
    Mutation(
        "fpt_ray/search/attributes.py", 'ended and stage_of(trial) == "final" and', "ended and", _SEARCHER, "confirmed"
    ),
    Mutation(
        "fpt_ray/search/attributes.py",
        "return stored and not broken_limits(constraints, result_of(trial))",
        "return True",
        _SEARCHER,
        "confirmed",
    ),
    Mutation(
        "fpt_ray/search/ladder.py",
        "if not all(trial.state.is_finished()",
        "if not any(trial.state.is_finished()",
        _LADDER,
    ),
    Mutation("fpt_ray/search/ladder.py", "rung_of(trial) in range(number)", "rung_of(trial) in range(1)", _LADDER),
    Mutation(
        "fpt_ray/search/ladder.py",
        "(-val_score(trial, space), trial.number)",
        "(val_score(trial, space), trial.number)",
        _LADDER,
    ),
    Mutation(
        "fpt_ray/search/ladder.py", "if rung_of(trial) == number and", "if rung_of(trial) is not None and", _LADDER
    ),
    Mutation("fpt_ray/search/ladder.py", "not is_infeasible(trial) for trial in own", "True for trial in own", _LADDER),
    Mutation(
        "fpt_ray/tune/scoring.py", "if over_seeds else None", "if False else None", "tests/tune/test_scoring.py", "grid"
    ),
    Mutation("fpt_ray/tune/scoring.py", "int(saved.identity[:8], 16)", "0", "tests/tune/test_scoring.py", "grid"),
    Mutation("fpt_ray/tune/scoring.py", "first = min(shown", "first = max(shown", "tests/tune/test_scoring.py", "grid"),
    Mutation("fpt_ray/search/searcher.py", "if again:", "if not again:", _SEARCHER, "dead_before or crashes"),
    Mutation(
        "fpt_ray/search/searcher.py",
        "self.asking.is_done() and not self.held",
        "self.asking.is_done()",
        _SEARCHER,
        "not_ready",
    ),
    Mutation("fpt_ray/search/searcher.py", ", *(trial for trial, _ in self.held)", "", _SEARCHER, "not_ready"),
    Mutation(
        "fpt_ray/features/serving.py",
        "need.side_resolutions if need.images else ()",
        "need.side_resolutions",
        "tests/models/test_summary_probes.py",
    ),
    Mutation(
        "fpt_ray/preload/extraction.py", "torch.get_num_threads()", "pass", "tests/preload/test_batches.py", "it_set"
    ),
    Mutation("fpt_ray/models/lpm_attention.py", "if not computed:", "if False:", _BACKBONE, "left_to_pytorch"),
    Mutation(
        "fpt_ray/features/serving.py",
        "SUMMARY_METHODS and not need.images)",
        "SUMMARY_METHODS)",
        "tests/models/test_summary_probes.py",
        "network_alone",
    ),
    Mutation(
        "fpt_ray/search/attributes.py",
        "first_seed=unused,",
        "first_seed=space.repeats if confirming else 0,",
        _QUEUE,
    ),
    Mutation("fpt_ray/search/queue.py", 'if name != "training.seed"}', "}", _QUEUE),
    Mutation("fpt_ray/search/queue.py", "if row.active(flatten(space.trial(proposal))):", "if True:", _QUEUE),
    Mutation(
        "fpt_ray/search/queue.py",
        "proposal = {POINT: values[POINT]} if space.points else {}",
        "proposal = {}",
        _QUEUE,
    ),
    Mutation("fpt_ray/tune/preparation.py", "if row.name in proposal:", "if True:", _QUEUE),
    Mutation("fpt_ray/config/space.py", "if not self._may_occur(values, own):", "if False:", _QUEUE),
    Mutation("fpt_ray/tune/preparation.py", "share is not None and share <= 0", "False", _QUEUE),
    Mutation("fpt_ray/features/store.py", "removed=_still_there(store))", "removed=())", _WITHDRAWAL),
    Mutation(
        "fpt_ray/features/store.py", "removed=(*after.removed, *removed))", "removed=tuple(removed))", _WITHDRAWAL
    ),
    Mutation("fpt_ray/features/withdrawal.py", "    if store.removed:", "    if False:", _WITHDRAWAL),
    Mutation("fpt_ray/features/withdrawal.py", "    _require_finished(store, hashes)", "    pass", _WITHDRAWAL),
    Mutation("fpt_ray/features/verification.py", "int(found[1]) <= store.generation and ", "", _WITHDRAWAL),
    Mutation("fpt_ray/storage/local.py", ", onerror=_raise_unless_missing)", ")", _STORE, "listed"),
    Mutation("fpt_ray/storage/local.py", "        _raise_unless_missing(error)", "        pass", _STORE, "listed"),
    Mutation("fpt_ray/features/shards.py", "    except MemoryError:", "    except KeyError:", _STORE, "memory"),
    Mutation("fpt_ray/features/places.py", "self.kept_bytes -= ", "_ = ", _STORE, "kept_up"),
    Mutation("fpt_ray/reading/host_disk.py", "limit - (written - own)", "limit - written", _PLACES, "twice"),
    Mutation("fpt_ray/reading/host_disk.py", ".free + written))", ".free))", _PLACES, "twice"),
    Mutation(
        "fpt_ray/reading/places.py",
        "for store in holders(need, stores):",
        "for store in holders(need, stores)[:1]:",
        "tests/features/test_serving.py",
        "several_stores",
    ),
    Mutation(
        "fpt_ray/report/command.py",
        "if not result.places.is_own:",
        "if False:",
        "tests/report/test_report.py",
        "another_working",
    ),
    Mutation(
        "fpt_ray/predict/trained_on.py",
        'for split in ("train", "val")',
        'for split in ("train",)',
        "tests/predict/test_listing.py",
        "by_their_content",
    ),
    Mutation(
        "fpt_ray/tracking/records.py",
        'if of_search or name != "train_seconds"}',
        "}",
        "tests/report/test_counted.py",
    ),
    Mutation(
        "fpt_ray/train/ray_train.py",
        "isinstance(failure, NonFiniteLossError)",
        "False",
        "tests/train/test_commands.py",
        "too_few_images",
    ),
    Mutation("fpt_ray/config/fitting.py", 'trial.method != "knn" and ', "", "tests/config/test_fitting.py", "larger"),
    Mutation("fpt_ray/predict/parts.py", "min(most, held, ", "min(most, ", "tests/predict/test_parts.py", "large"),
    Mutation(
        "fpt_ray/display/terminal.py", "error.errno in _NO_DEFECT", "False", "tests/display/test_terminal.py", "may_not"
    ),
    Mutation(
        "fpt_ray/cluster.py",
        "asked = _start(question, share)",
        "asked = _start(question, share); ray.wait([asked])",
        "tests/preload/test_decoded.py",
        "answers_while",
    ),
    Mutation(
        "fpt_ray/preload/pipeline.py",
        "math.ceil(num_images / _SHARES)",
        "math.ceil(len(once) / _SHARES)",
        "tests/preload/test_order.py",
        "few_images",
    ),
    Mutation(
        "fpt_ray/preload/pipeline.py", "max(_FEW_ROWS, ", "max(512, ", "tests/preload/test_order.py", "few_images"
    ),
    Mutation("fpt_ray/features/joining.py", "bool(self.shards)", "True", "tests/features/test_serving.py", "planned"),
    Mutation("fpt_ray/report/ledger.py", "lines if len(lines) > 1 else []", "[]", "tests/report/test_ledger.py"),
    Mutation("fpt_ray/tune/losses.py", "trial.status == Trial.PENDING", "True", "tests/tune/test_losses.py"),
    Mutation("fpt_ray/models/backbone.py", "2 * shape.depth // 3 + 1", "2 * shape.depth // 3", _STORE, "patterns"),
    Mutation("fpt_ray/models/backbone.py", "(layer + 1) * shape.depth", "layer * shape.depth + 1", _STORE, "patterns"),
    Mutation("fpt_ray/config/space.py", "if EVEN in texts", "if EVEN not in texts", _STORE, "patterns"),
    Mutation("fpt_ray/config/space.py", "one[0] not in NESTED or ", "", _STORE, "patterns"),
    Mutation("fpt_ray/features/rows.py", "_fill(tensor, found, SUMMARIES)", "pass", _ORDER, "class_tokens"),
    Mutation(
        "fpt_ray/models/lpm_attention.py",
        "queries=queries, keys=keys, values=values, scale=scale",
        "queries=keys, keys=keys, values=values, scale=scale",
        _ATTENTION,
    ),
    Mutation("fpt_ray/models/importance.py", "model.pool(model.norm(tokens))", "tokens.mean(dim=1)", _ATTENTION),
    Mutation(
        "fpt_ray/models/lpm_attention.py",
        "if bias is None else scores + bias",
        "if True else bias",
        _ATTENTION,
        "bias_of",
    ),
    Mutation("fpt_ray/models/methods.py", "and not shape.plain_attention", "and False", _ATTENTION, "no_meaning"),
    Mutation("fpt_ray/models/side_block.py", ", dtype=products.dtype", "", "tests/cost/test_prediction.py", "sixteen"),
    Mutation("fpt_ray/models/published.py", '("teacher", ', "(", "tests/models/test_published.py"),
    Mutation("fpt_ray/models/published.py", '"decoder_", ', "", "tests/models/test_published.py"),
    Mutation("fpt_ray/features/importance/measures.py", "return 2 * int(", "return int(", _IMPORTANCE),
    Mutation(
        "fpt_ray/features/importance/measures.py", "num_tokens - patches, number", "num_tokens - 1, number", _IMPORTANCE
    ),
    Mutation(
        "fpt_ray/features/importance/measures.py", "together * (together - 1)", "together * together", _IMPORTANCE
    ),
    Mutation("fpt_ray/features/importance/findings.py", "math.ceil(high)", "math.floor(high)", _IMPORTANCE),
    Mutation("fpt_ray/features/importance/findings.py", "patches + shape.num_prefix_tokens", "patches", _IMPORTANCE),
    Mutation("fpt_ray/features/importance/flips.py", "flipped[:, mirrored]", "flipped", _IMPORTANCE),
    Mutation("fpt_ray/features/importance/flips.py", "!= spec.weights_digest", "== ''", _IMPORTANCE),
    Mutation("fpt_ray/features/importance/survey.py", "for split in _SPLITS]", "for split in SPLITS]", _IMPORTANCE),
    Mutation(
        "fpt_ray/demo/fundus.py",
        "if lesion in meaningful and",
        "if",
        "tests/demo/test_demo.py",
        "table_of_its or boxes_say",
    ),
    # --- the checks -----------------------------------------------------------------------------------------------
    Mutation(
        "fpt_ray/datasets/checks/alike.py",
        "    several[numbers[one[numbers] != sides]] = True\n",
        "    several[numbers[one[numbers] == sides]] = True\n",
        _CHECKS,
        "torn or several",
    ),
    Mutation(
        "fpt_ray/datasets/checks/alike.py",
        "in combinations(_bands(most_bits + 2), 2)",
        "in combinations(_bands(most_bits + 2)[1:], 2)",
        _CHECKS,
        "comparing",
    ),
    Mutation(
        "fpt_ray/datasets/checks/contents.py",
        "known = np.flatnonzero(~np.isnan(values))",
        "known = np.arange(len(values))",
        _CHECKS,
        "missing",
    ),
    Mutation("fpt_ray/datasets/checking.py", "one.doubt in allow)]", "allow)]", _CHECKING, "allowed or together"),
    Mutation(
        "fpt_ray/datasets/usable.py",
        "own.take(pc.index_in(whole.paths, value_set=readable.paths))",
        "own",
        _CHECKING,
        "order",
    ),
    Mutation(
        "fpt_ray/datasets/findings.py",
        'found.filter(pc.is_valid(found["sha256"]))',
        "found",
        "tests/datasets/test_inspection.py",
        "could_not",
    ),
    # --- published data sets --------------------------------------------------------------------------------------
    Mutation("fpt_ray/datasets/published/bccd.py", 'ends["xmin"] - 1', 'ends["xmin"]', f"{_PUBLISHED}/test_bccd.py"),
    Mutation(
        "fpt_ray/datasets/published/cmmd.py", "labels.get((patient, side),", "labels.get((patient, 'L'),", _LAYOUTS
    ),
    Mutation(
        "fpt_ray/datasets/published/preparation.py",
        "whole = len(present) == of.images and",
        "whole = len(present) >= of.images and",
        _LAYOUTS,
    ),
    Mutation("fpt_ray/datasets/published/messidor2.py", "group=patient[image.lower()]", "group=image", _LAYOUTS),
    Mutation("fpt_ray/tune/data_sets.py", "resume=options.resume and ", "resume=", "tests/tune/test_data_sets.py"),
    Mutation("fpt_ray/images/decoding.py", "_SIDEWAYS = (5, 6, 7, 8)", "_SIDEWAYS = ()", _IMPORTANCE, "size"),
    Mutation("fpt_ray/models/step.py", "losses * weights.to(losses)", "losses", "tests/models/test_step.py"),
    Mutation("fpt_ray/train/loop.py", "            batch.weights,\n", "", _LOOP, "by_its_weight"),
    # --- what a trial leaves --------------------------------------------------------------------------------------
    Mutation("fpt_ray/metrics/calibration.py", "logits / np.exp(log)", "logits * np.exp(log)", _CALIBRATION),
    Mutation("fpt_ray/metrics/calibration.py", "(right - confidence)[:, None]", "confidence[:, None]", _CALIBRATION),
    Mutation("fpt_ray/metrics/operating_points.py", "scores >= threshold", "scores > threshold + 0.2", _CALIBRATION),
    Mutation(
        "fpt_ray/predict/classifier.py",
        "load_learnable_state(self.model, state)",
        "load_learnable_state(self.model, self.bundle.states[0])",
        _CLASSIFIER,
        "seeds",
    ),
    Mutation(
        "fpt_ray/predict/classifier.py",
        "to(device, getattr(torch, bundle.spec.precision))",
        "to(device, torch.bfloat16)",
        _CLASSIFIER,
        "probe",
    ),
    Mutation("fpt_ray/train/bundle.py", "!= digests[name]", "== None", _CLASSIFIER, "changed"),
    Mutation(
        "fpt_ray/train/leaving.py", 'store.target, found["val"]', 'store.target, found["test"]', _CLASSIFIER, "probe"
    ),
    Mutation(
        "fpt_ray/train/leaving.py",
        'operating_points(means["val"]',
        'operating_points(means["test"]',
        _CLASSIFIER,
        "task",
    ),
    Mutation("fpt_ray/train/tokens.py", '_tokens(store, "val")', '_tokens(store, "train")', _CLASSIFIER, "familiarity"),
    Mutation("fpt_ray/train/tokens.py", "summaries[:, -1, 0]", "summaries[:, 0, 0]", _CLASSIFIER, "familiarity"),
    Mutation("fpt_ray/metrics/familiarity.py", "1 - nearer /", "nearer /", "tests/metrics/test_familiarity.py"),
    Mutation(
        "fpt_ray/metrics/familiarity.py",
        "along**2 / self.variances[:-1]",
        "along**2 * self.variances[:-1]",
        "tests/metrics/test_familiarity.py",
    ),
    Mutation("fpt_ray/metrics/operating_points.py", "known = ~np.isnan", "known = np.isnan", _CALIBRATION),
    Mutation("fpt_ray/metrics/intervals.py", "_NUMBERS // max(", "10**12 // max(", "tests/metrics/test_intervals.py"),
    Mutation(
        "fpt_ray/predict/ensemble.py",
        "num_kept=max(spec.num_kept for spec in specs)",
        "num_kept=specs[0].num_kept",
        "tests/predict/test_ensemble.py",
    ),
    Mutation(
        "fpt_ray/predict/seen.py",
        "[self.spec.blocks.index(block) for block in spec.blocks]",
        "list(range(len(spec.blocks)))",
        "tests/predict/test_ensemble.py",
    ),
    Mutation(
        "fpt_ray/serve/access.py",
        "hmac.compare_digest(given.strip().encode(), token.encode())",
        "True",
        _REFUSED,
        "token_nothing",
    ),
    Mutation("fpt_ray/serve/bodies.py", "if count > most:", "if count > 2 * most:", _REFUSED, "long_body"),
    Mutation("fpt_ray/serve/bodies.py", "if len(parts) == limits.request_images:", "if False:", _REFUSED, "not_taken"),
    Mutation("fpt_ray/serve/app.py", "422 if unread else 200", "200", _SERVED, "reason_each"),
    Mutation(
        "fpt_ray/serve/answers.py",
        "if is_dicom(data) and error.__cause__ is not None:",
        "if False:",
        _SERVED,
        "of_a_patient",
    ),
    Mutation("fpt_ray/serve/answers.py", "known < UNLIKE", "known > UNLIKE", _SERVED, "unlike"),
    Mutation("fpt_ray/train/bundle.py", "if has != wants:", "if False:", "tests/predict/test_classifier.py", "refused"),
    Mutation(
        "fpt_ray/predict/finding.py",
        '(documents[one].get("confirms") is not None, _score(documents[one])[1])',
        "_score(documents[one])[1]",
        "tests/predict/test_logged.py",
        "confirmed_is_the_best",
    ),
    Mutation(
        "fpt_ray/storage/files.py",
        "any(file is not None for _, file in",
        "any(True for _, file in",
        "tests/storage/test_conformance.py",
        "stamp_changes",
    ),
    Mutation(
        "fpt_ray/tune/bundles.py",
        "(has_test or not tested) and",
        "has_test and",
        "tests/tune/test_bundles.py",
    ),
    Mutation(
        "fpt_ray/tracking/models.py",
        "    if others:",
        "    if not versions:",
        "tests/predict/test_logged.py",
        "taken_over",
    ),
    Mutation("fpt_ray/serve/app.py", 'return asked == "1"', "return False", _SERVED, "evidence"),
    Mutation("fpt_ray/report/front_ensemble.py", "reverse=True", "reverse=False", _GAIN),
    Mutation("fpt_ray/metrics/gain.py", "ours[name] - theirs[name]", "theirs[name] - ours[name]", _GAIN),
    Mutation(
        "fpt_ray/images/decoding.py",
        "if width * height > max_pixels:",
        "if width * height > MAX_PIXELS:",
        _SERVED,
        "too_many_pixels",
    ),
    Mutation("fpt_ray/predict/logged.py", 'if "/" not in file.path', "if file.path", "tests/predict/test_logged.py"),
    Mutation(
        "fpt_ray/datasets/usable.py",
        "if given and not (whole.splits == test).any():",
        "if False:",
        "tests/datasets/test_checking.py",
    ),
    Mutation(
        "fpt_ray/datasets/checks/classes.py",
        "(own == 1).any(axis=0) & (own == 0).any(axis=0)",
        "(own == 1).any(axis=0)",
        _CHECKS,
        "one_kind",
    ),
    Mutation(
        "fpt_ray/datasets/checking.py",
        "table.hashes_ is None or any_there(",
        "table.hashes_ is None and any_there(",
        "tests/datasets/test_stratification.py",
        "files_of_a_table",
    ),
    Mutation(
        "fpt_ray/datasets/units.py",
        "(group, number + content)",
        "(group, number + group)",
        "tests/datasets/test_stratification.py",
        "share_a_content",
    ),
    Mutation(
        "fpt_ray/datasets/checks/pictures.py",
        "if chosen and all(",
        "if chosen and not all(",
        "tests/datasets/checks/test_remarks.py",
    ),
)
