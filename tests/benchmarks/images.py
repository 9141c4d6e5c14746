r"""Image models: accuracy on Fashion-MNIST, ablations, depth, robustness.

    python tests/benchmarks/images.py fashion_mnist --out docs/tables
    python tests/benchmarks/images.py ablation --runs ablation.jsonl --out docs/tables

``fashion_mnist`` trains DTTN-dagger and DTTN on all training images, three seeds, on all cores,
beside scikit-learn's models. ``ablation`` trains networks that differ in one thing and have the
same number of parameters, five seeds each, on digits and on Fashion-MNIST, one core for each
training and as many trainings at a time as there are cores; about an hour on two. Finished ones are
kept in the file of ``--runs``, if one is given, and not done again.

Learning rate, epochs and sizes were chosen on 5000 of Fashion-MNIST's training images, the default
number of steps on a part of the digits. Test images are scored once a seed.
"""

import argparse
import logging
import statistics
import time
from pathlib import Path

import numpy as np
from _runs import run_all
from quality import machine
from side_by_side import judged, table
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC

logger = logging.getLogger("images")

BN, LN = "batch_norm_product", "layer_norm_product"
FASHION = {"variant": "small", "augmentations": ("horizontal_flip",), "max_epochs": 10}
FASHION_SEEDS, ABLATION_SEEDS = range(3), range(5)
# At least, in %; at most, in seconds.
ACCURACY_GOAL, SECONDS_GOAL = 90.6, 900
BASELINES = {
    "logistic regression": lambda seed: LogisticRegression(max_iter=200),
    "SVM (RBF)": lambda seed: SVC(),
    "random forest": lambda seed: RandomForestClassifier(300, n_jobs=-1, random_state=seed),
}

N_LAYERS = 4
ABLATION = {
    "AIM (DTTN)": {},
    "AIM, LayerNorm (DTTN-dagger)": {"merge": LN},
    "SIM-Conv": {"block": "sim_conv"},
    "SIM-Linear": {"block": "sim_linear"},
    "no product": {"block": "no_product"},
    "ReLU in place of the product": {"merge": "relu"},
    "every fourth block mixes tokens": {"block": ("aim", "aim", "aim", "token_mixing")},
}
DEPTHS = {f"{n} blocks": {"n_layers": n} for n in (1, 2, 8)}
# Of the networks whose robustness is measured; strengths are of pixels in [0, 1].
ATTACKED = ("AIM (DTTN)", "AIM, LayerNorm (DTTN-dagger)", "ReLU in place of the product")
FGSM, NOISE = (0, 2, 4, 8, 16), (0, 5, 10, 20, 40)
N_ATTACKED = 2000
SETTINGS = {
    "digits": {"channels": 32, "trainer": {}},
    "fashion_mnist": {"channels": 32, "trainer": {"max_epochs": 3}},
}


def spread(values):
    """Mean and standard deviation of shares, in %."""
    values = [100 * value for value in values]
    return f"{statistics.mean(values):.2f}" + (
        f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    )


# Fashion-MNIST end to end -------------------------------------------------------------------------


def fashion_mnist(arguments):
    from tn4ml_plus import DTTNClassifier
    from tn4ml_plus.datasets import load_fashion_mnist

    images, y, test_images, test_y = load_fashion_mnist()
    seeds = FASHION_SEEDS[:1] if arguments.quick else FASHION_SEEDS
    options = FASHION | ({"max_epochs": 1} if arguments.quick else {})
    rows = []
    for name, merge, goals in (
        ("DTTN-dagger", LN, (ACCURACY_GOAL, SECONDS_GOAL)),
        ("DTTN", BN, (None, SECONDS_GOAL)),
    ):
        scores, seconds = [], []
        for seed in seeds:
            model, start = DTTNClassifier(merge=merge, random_state=seed, **options), now()
            model.fit(images, y)
            seconds.append(now() - start)
            scores.append(model.score(test_images, test_y))
            logger.info("%s, seed %d: %.4f after %.0f s", name, seed, scores[-1], seconds[-1])
        accuracy = judged(100 * statistics.mean(scores), spread(scores), goals[0])
        longest = judged(max(seconds), f"{max(seconds):.0f}", goals[1], at_most=True)
        rows.append([name, f"{model.model_.n_parameters:,}", accuracy, longest])
    flat, test_flat = (each.reshape(len(each), -1) / 255 for each in (images, test_images))
    for name, build in {} if arguments.quick else BASELINES.items():
        start = now()
        model = build(0).fit(flat, y)
        seconds = now() - start
        rows.append([name, "", spread([model.score(test_flat, test_y)]), f"{seconds:.0f}"])
        logger.info("%s", rows[-1])
    head = ["model", "parameters", "test accuracy, %", "longest fit, s"]
    write(
        arguments,
        "images_fashion_mnist",
        f"""\
`DTTNClassifier.fit` on the 60,000 training images, {options["max_epochs"]} epochs with mirrored
images, four blocks of 48 channels on 7 x 7 patches; mean ± standard deviation over {len(seeds)}
seeds, of which the first compiles. scikit-learn's models read the pixels, one seed.

{table(head, rows)}
""",
    )


def now():
    return time.perf_counter()


# Ablations ----------------------------------------------------------------------------------------


def build(dataset, seed, n_layers=N_LAYERS, block="aim", merge=BN):
    """The classifier, with as many channels as bring it nearest to four blocks of AIM."""
    import equinox as eqx
    import jax

    from tn4ml_plus import DTTNClassifier
    from tn4ml_plus.image import BLOCKS, DTTN, BatchNormSum, Variant
    from tn4ml_plus.training import ImageGradient

    class Rectified(BatchNormSum):
        """A rectifier of the sum of the normalised branches."""

        def __call__(self, left, right, moments=None):
            return jax.nn.relu(super().__call__(left, right, moments))

    shape = {"digits": (8, 8), "fashion_mnist": (28, 28)}[dataset]
    settings = SETTINGS[dataset]
    names = block if isinstance(block, tuple) else (block,)
    blocks = tuple(BLOCKS[name] for name in names)

    def size(channels, n_layers, blocks):
        variant, key = Variant((channels,), (n_layers,)), jax.random.key(0)
        return eqx.filter_eval_shape(DTTN, variant, shape, 10, block=blocks, key=key).n_parameters

    target = size(settings["channels"], N_LAYERS, (BLOCKS["aim"],))
    channels = min(range(8, 120), key=lambda c: abs(size(c, n_layers, blocks) - target))
    return DTTNClassifier(
        Variant((channels,), (n_layers,)),
        image_shape=shape,
        block=block,
        merge=Rectified if merge == "relu" else merge,
        augmentations=() if dataset == "digits" else ("horizontal_flip",),
        trainer=ImageGradient(**settings["trainer"]),
        random_state=seed,
    )


def parts(dataset, seed):
    """Images and labels to train on and to test; of digits, other fifths are the test by seed."""
    from tn4ml_plus.datasets import load_fashion_mnist

    if dataset == "fashion_mnist":
        return load_fashion_mnist()
    images, y = load_digits(return_X_y=True)
    images, test, y, test_y = train_test_split(
        images, y, test_size=0.2, random_state=seed, stratify=y
    )
    return images, y, test, test_y


def training(dataset, name, seed):
    """Train one network; what was found, as a dictionary."""
    images, y, test_images, test_y = parts(dataset, seed)
    model = build(dataset, seed, **(ABLATION | DEPTHS)[name]).fit(images, y)
    seconds = model.history_["seconds"]
    found = {
        "parameters": model.model_.n_parameters,
        "channels": model.variant.channels[0],
        "accuracy": model.score(test_images, test_y),
        # The first epoch compiles.
        "seconds": (seconds[-1] - seconds[0]) / (len(seconds) - 1) * len(seconds),
    }
    if dataset == "fashion_mnist" and name in ATTACKED:
        found |= attacked(model, test_images[:N_ATTACKED] / 255, test_y[:N_ATTACKED])
    return found


def attacked(model, images, y):
    """Accuracies under attacks by the sign of the gradient, and under noise."""
    import jax
    import jax.numpy as jnp

    mean, scale = (jnp.asarray(value, jnp.float32) for value in (model.mean_, model.scale_))
    codes = jnp.asarray(np.searchsorted(model.classes_, y))

    def outputs(images):
        return model.model_((255 * images[..., None] - mean) / scale)

    def loss(images, codes):
        log_p = jax.nn.log_softmax(outputs(images))
        return -jnp.take_along_axis(log_p, codes[:, None], 1).sum()

    @jax.jit
    def slopes(images):
        return jnp.sign(jax.grad(loss)(images, codes))

    @jax.jit
    def score(images):
        return (outputs(images).argmax(1) == codes).mean()

    images = jnp.asarray(images, jnp.float32)
    slope, noise = slopes(images), jax.random.normal(jax.random.key(0), images.shape)
    return {
        "fgsm": [float(score(jnp.clip(images + e / 255 * slope, 0, 1))) for e in FGSM],
        "noise": [float(score(jnp.clip(images + s / 100 * noise, 0, 1))) for s in NOISE],
    }


def ablation(arguments):
    seeds = ABLATION_SEEDS[:1] if arguments.quick else ABLATION_SEEDS
    wanted = [
        (dataset, name, seed)
        for dataset in (["digits"] if arguments.quick else SETTINGS)
        for name in (*ABLATION, *DEPTHS)
        for seed in seeds
    ]
    found = run_all(training, wanted, arguments.runs)
    write(arguments, "images_ablation", report(found, seeds))


def report(found, seeds):
    """The tables of all runs, as markdown."""

    def runs(dataset, name):
        return [found[dataset, name, seed] for seed in seeds]

    datasets = [name for name in SETTINGS if (name, "AIM (DTTN)", seeds[0]) in found]
    text = []
    for dataset in datasets:
        aim = [run["accuracy"] for run in runs(dataset, "AIM (DTTN)")]
        rows = []
        for name in ABLATION:
            these = runs(dataset, name)
            accuracies = [run["accuracy"] for run in these]
            rows.append(
                [
                    name,
                    f"{these[0]['channels']}",
                    f"{these[0]['parameters']:,}",
                    spread(accuracies),
                    spread([a - b for a, b in zip(accuracies, aim)]),
                    f"{statistics.median(run['seconds'] for run in these):.0f}",
                ]
            )
        if dataset == "digits":
            for name, make in BASELINES.items():
                scores = []
                for seed in seeds:
                    images, y, test_images, test_y = parts(dataset, seed)
                    model = make_pipeline(MinMaxScaler(), make(seed)).fit(images, y)
                    scores.append(model.score(test_images, test_y))
                differences = [a - b for a, b in zip(scores, aim)]
                rows.append([name, "", "", spread(scores), spread(differences), ""])
        head = ["network", "channels", "parameters", "test accuracy, %", "minus AIM", "training, s"]
        text.append(f"### {TITLES[dataset]}\n\n{table(head, rows)}\n")
    rows = []
    for n_layers in (1, 2, N_LAYERS, 8):
        name = "AIM (DTTN)" if n_layers == N_LAYERS else f"{n_layers} blocks"
        row = [str(n_layers), f"{2**n_layers}"]
        for dataset in datasets:
            these = runs(dataset, name)
            row += [f"{these[0]['channels']}", spread([run["accuracy"] for run in these])]
        rows.append(row)
    head = ["blocks = log2 of the degree", "degree"]
    for dataset in datasets:
        head += [f"channels, {TITLES[dataset]}", f"test accuracy, {TITLES[dataset]}, %"]
    text.append(f"### Depth, at as many parameters\n\n{table(head, rows)}\n")
    if "fashion_mnist" in datasets:
        for kind, strengths, unit in (("fgsm", FGSM, "{} / 255"), ("noise", NOISE, "0.{:02d}")):
            rows = [
                [name]
                + [
                    spread([run[kind][i] for run in runs("fashion_mnist", name)])
                    for i in range(len(strengths))
                ]
                for name in ATTACKED
            ]
            head = ["test accuracy, %", *(unit.format(strength) for strength in strengths)]
            text.append(f"### {TITLES[kind]}\n\n{table(head, rows)}\n")
    return f"""\
Four blocks, or as many as are named, with channels such that each network has as many parameters
as four blocks of AIM with 32 channels, as nearly as whole numbers allow; mean ± standard deviation
over {len(seeds)} seeds, differences taken seed by seed. Digits: 8 x 8 pixels, defaults, another
fifth of the images is the test for each seed. Fashion-MNIST: 7 x 7 patches, three epochs with
mirrored images on all training images, the 10,000 test images. Seconds of training without
compilation, one core.

{chr(10).join(text)}"""


TITLES = {
    "digits": "digits",
    "fashion_mnist": "Fashion-MNIST",
    "fgsm": f"FGSM, first {N_ATTACKED:,} test images of Fashion-MNIST, strength by pixel",
    "noise": f"Normal noise, first {N_ATTACKED:,} test images of Fashion-MNIST, deviation by pixel",
}


def write(arguments, name, text):
    if arguments.out is not None:
        (arguments.out / f"{name}.md").write_text(f"{text}\n{machine()}\n")


def main():
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["fashion_mnist", "ablation"])
    parser.add_argument("--out", type=Path, help="folder of the markdown tables")
    parser.add_argument("--runs", type=Path, help="file of finished trainings")
    parser.add_argument("--quick", action="store_true", help="one seed, digits or one epoch")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    {"fashion_mnist": fashion_mnist, "ablation": ablation}[arguments.what](arguments)


if __name__ == "__main__":
    main()
