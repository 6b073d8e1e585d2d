"""What a worker says to its driver, as the tests say it in its place."""

import statistics

from fpt_ray.search.messages import EpochReport, SeedEpoch, pack_messages


def report(*, epochs=1, finished=True, val_auc_epoch=0.5, load=None, **metrics):
    """One of Tune's results: an epoch's report with these numbers of the trial."""
    return pack_messages(
        EpochReport(
            epochs=epochs,
            seeds=(
                SeedEpoch(
                    repeat=0,
                    epoch=epochs,
                    train_loss=0.0,
                    val_score_epoch=val_auc_epoch,
                    val_score=metrics.get("val_auc", val_auc_epoch),
                ),
            ),
            epoch_seconds=0.1,
            finished=finished,
            metrics=metrics,
            load=load or {},
        )
    )


def of_seeds(epoch, val_aucs, first=0, finished=False):
    """An epoch's report of seeds that train together, with the AUC of each."""
    seeds = tuple(
        SeedEpoch(repeat=repeat, epoch=epoch, train_loss=0.0, val_score_epoch=value, val_score=value)
        for repeat, value in enumerate(val_aucs, start=first)
    )
    metrics = {"val_auc": statistics.fmean(val_aucs)}
    epochs = epoch * len(val_aucs)
    return pack_messages(EpochReport(epochs=epochs, seeds=seeds, epoch_seconds=0.1, finished=finished, metrics=metrics))
