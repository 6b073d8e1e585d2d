"""What a worker says to its driver, as the tests say it in its place."""

from fpt_ray.search.messages import EpochReport, pack_message


def report(*, epochs=1, finished=True, val_auc_epoch=0.5, **metrics):
    """One of Tune's results: an epoch's report with these numbers of the trial."""
    return pack_message(
        EpochReport(
            epochs=epochs,
            repeat=0,
            epoch_of_seed=epochs,
            train_loss=0.0,
            val_auc_epoch=val_auc_epoch,
            val_auc_seed=val_auc_epoch,
            epoch_seconds=0.1,
            finished=finished,
            metrics=metrics,
        )
    )
