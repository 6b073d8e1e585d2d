"""What a worker says to its driver, as the tests say it in its place."""

from fpt_ray.search.messages import EpochReport, SeedEpoch, pack_message


def report(*, epochs=1, finished=True, val_auc_epoch=0.5, **metrics):
    """One of Tune's results: an epoch's report with these numbers of the trial."""
    return pack_message(
        EpochReport(
            epochs=epochs,
            seeds=(
                SeedEpoch(
                    repeat=0,
                    epoch=epochs,
                    train_loss=0.0,
                    val_auc_epoch=val_auc_epoch,
                    val_auc=metrics.get("val_auc", val_auc_epoch),
                ),
            ),
            epoch_seconds=0.1,
            finished=finished,
            metrics=metrics,
        )
    )
