"""Known wrong variants of the family training: ATLAS-07, -09, -14 … -20 and MEM-24 … -29, -31, -32."""

from __future__ import annotations

import numpy as np

from trueness.regressions._lib.commands import show
from trueness.regressions.training import variants as wrong
from trueness.tools.spec.model import UNDOCUMENTED, Bug

ATLAS = "ATLAS changelog, 2025-11-20"
MEMORY = "Atlas test-time memory changelog, 2025-07-17"
GOYAL = "Goyal et al. 2017 (1706.02677) §3"
GRADIENTS = np.array([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0], [-0.5, 4.0, 2.0]])
COUNTS = np.array([8, 8, 2])
SCHEDULE = (np.arange(19), 5, 20, 0.1)

BUGS = (
    Bug(
        id="ATLAS-07a",
        formula="training.steps_per_epoch",
        title="the last micro-batches of an epoch are dropped",
        document=f"{ATLAS}, training_pipeline.py",
        claim="the final partial batch was not stepped",
        verdict="real bug, right fix",
        source=GOYAL,
        finding="Of N = 10 micro-batches with A = 4 only 8 were used, of N = 3 none. What is partial is the window "
        "of accumulation, not the batch.",
        evidence=show("ATLAS_07a"),
        variant=wrong.remainder_dropped,
        discriminating_input=(10, 4),
    ),
    Bug(
        id="ATLAS-07b",
        formula="training.accumulate",
        title="the short last window is divided by A",
        document=f"{ATLAS}, training_pipeline.py",
        claim="the remainder is stepped as well",
        verdict="real bug, right fix",
        source=GOYAL,
        finding="Stepping a window of k < A micro-batches whose losses were divided by A shrinks its gradient by k/A; "
        "the repository rescales it.",
        evidence=show("ATLAS_07b"),
        variant=wrong.divided_by_window,
        discriminating_input=(GRADIENTS, COUNTS),
    ),
    Bug(
        id="ATLAS-07c",
        formula="training.clip_after_average",
        title="the sum is clipped, then divided",
        document=f"{ATLAS}, training_pipeline.py",
        claim="unscale, divide, clip, step",
        verdict="real bug, right fix",
        source="Pascanu, Mikolov & Bengio 2013 Alg. 1: the gradient of the loss is clipped",
        finding="Clipped before the division, no update is longer than c/k.",
        evidence=show("ATLAS_07c"),
        variant=wrong.clipped_before_dividing,
        discriminating_input=(GRADIENTS, COUNTS, 0.5),
    ),
    Bug(
        id="ATLAS-07d",
        formula="training.accumulate",
        title="the mean of means where micro-batches differ in size",
        document=f"{ATLAS}, training_pipeline.py; also in the fix",
        claim="(1/k) Σ ∇loss_j is the gradient of the window",
        verdict="real bug, wrong fix",
        source=GOYAL,
        finding="It is the full-batch gradient only if all micro-batches have the same size; the last of an epoch has "
        "not. Weighted by the numbers of samples it always is.",
        evidence=show("ATLAS_07d"),
        variant=wrong.mean_of_means,
        discriminating_input=(GRADIENTS, COUNTS),
    ),
    Bug(
        id="ATLAS-07e",
        formula="training.ema_update",
        title="the decay of the average becomes d^k",
        document=f"{ATLAS}, training_pipeline.py; not in the changelog",
        claim="the average is updated once per optimiser step",
        verdict="convention",
        source="Polyak & Juditsky 1992; torch.optim.swa_utils",
        finding="With d = 0.9999 and k = 4 the decay is silently 0.99960006: k updates towards the same weights. Both "
        "are averages; a decay that was tuned for one is wrong for the other.",
        evidence=show("ATLAS_07e"),
        variant=wrong.decay_of_the_window,
        discriminating_input=(np.array([1.0, -2.0]), np.array([3.0, 0.5]), 0.9),
    ),
    Bug(
        id="ATLAS-07f",
        formula="training.clip_after_average",
        title="every micro-batch is clipped on its own",
        document=UNDOCUMENTED,
        claim="clipping bounds every gradient",
        verdict="no bug",
        source="Pascanu, Mikolov & Bengio 2013 Alg. 1",
        finding="The mean of clipped gradients has another direction than the clipped mean: outliers weigh less.",
        evidence=show("ATLAS_07f"),
        variant=wrong.each_clipped,
        discriminating_input=(GRADIENTS, COUNTS, 0.5),
    ),
    Bug(
        id="ATLAS-07g",
        formula="training.ema_update",
        title="decay and its complement change places",
        document=UNDOCUMENTED,
        claim="a ← lerp(a, x, d)",
        verdict="no bug",
        source="Polyak & Juditsky 1992; torch.optim.swa_utils",
        finding="lerp takes the weight of its second argument, 1 − d: with d the average is nearly the last weights.",
        evidence=show("ATLAS_07g"),
        variant=wrong.swapped_decay,
        discriminating_input=(np.array([1.0, -2.0]), np.array([3.0, 0.5]), 0.9),
    ),
    *(
        Bug(
            id=f"ATLAS-09{letter}",
            formula="",
            title=title,
            document=document,
            claim=claim,
            verdict=verdict,
            source="the content of the input decides; recomputed and compared",
            finding=finding,
            evidence=show(f"ATLAS_09{letter}"),
        )
        for letter, title, document, claim, verdict, finding in (
            (
                "a",
                "features of other rows: a cache keyed by the sum of the input",
                f"{ATLAS}, rff.py, before",
                "the sum identifies the input",
                "real bug, wrong fix",
                "Permuted rows have the same sum; so have many others.",
            ),
            (
                "b",
                "features of freed memory: a cache keyed by data_ptr()",
                f"{ATLAS}, rff.py, the fix",
                "a unique identifier, eliminating collisions",
                "real bug, wrong fix",
                "The address survives an edit in place and is handed out again after a free.",
            ),
            (
                "c",
                "features of the old content: a cache keyed by 256 sampled elements",
                "ATLAS rff.py, later: SHA-1 of 256 elements",
                "a content hash",
                "real bug, wrong fix",
                "An edit at an element that is not sampled keeps the key.",
            ),
            (
                "d",
                "a stale Fisher diagonal: a cache keyed by address and four elements",
                "FastSB-OT kernels.py, 2025-11-28; later eight samples",
                "address and samples identify the input",
                "real bug, wrong fix",
                "An edit in place between the samples keeps the key: 0.215 was returned where 10000.0006 is right.",
            ),
        )
    ),
    Bug(
        id="ATLAS-14a",
        formula="training.legacy_memory_heuristic",
        title="a memory estimate that ignores the resolution",
        document=f"{ATLAS}, easy_api.py",
        claim="the new estimate is more reliable",
        verdict="claim false",
        source="measured peak memory of real modules",
        finding="The old formula knows the batch alone, the new one also resolution and channels, with constants "
        "nobody measured; its estimates for 6 and 8 GB went down. Measured on real modules both are off by a factor; "
        "a simulation of the step is off by some percent.",
        evidence=show("ATLAS_14"),
        variant=wrong.old_estimate,
        discriminating_input=(4, 1024.0, 192, 4, 12, True, False),
    ),
    Bug(
        id="ATLAS-14b",
        formula="training.legacy_memory_heuristic",
        title="parameters with the square of the channels",
        document=f"{ATLAS}, easy_api.py, docstring",
        claim="parameters scale with the channels squared",
        verdict="claim false",
        source="a convolution of C to C channels has 9 C² weights",
        finding="The docstring is right about networks and wrong about the code, which is linear: 192 to 384 channels "
        "double its estimate, while the weights of a 3 × 3 convolution grow fourfold.",
        evidence=show("ATLAS_14"),
        variant=wrong.width_squared,
        discriminating_input=(1, 512.0, 384, 4, 0, True, False),
    ),
    Bug(
        id="ATLAS-15a",
        formula="",
        title="weights of another shape are skipped in silence",
        document=f"{ATLAS}, easy_api.py",
        claim="checkpoints are validated strictly",
        verdict="real bug, right fix",
        source="torch.nn.Module.load_state_dict(strict=True)",
        finding="Loaded non-strictly, a network keeps its random weights where names or shapes differ. The fix raises "
        "for missing and misshapen weights, but only warns of unexpected ones and does not look at dtypes.",
        evidence=show("ATLAS_15a"),
    ),
    Bug(
        id="ATLAS-15b",
        formula="",
        title="the averaged weights are saved under a name nobody looks for",
        document=f"{ATLAS}, easy_api.py and training_pipeline.py",
        claim="ema_model is used where there is one",
        verdict="real bug, wrong fix",
        source="the two files beside each other",
        finding="Training saves the key ema, loading looks for ema_model: the average is never used, and nobody is "
        "told.",
        evidence=show("ATLAS_15b"),
    ),
    Bug(
        id="ATLAS-16a",
        formula="training.batch_size",
        title="batch tiers said to be conservative",
        document=f"{ATLAS}, hardware.py",
        claim="conservative tiers reduce running out of memory",
        verdict="claim false",
        source="both tables beside each other",
        finding="The new tiers are never lower than the old ones, and twice as high in [8, 10), [12, 14), [16, 20) and "
        "from 24 GiB on. They are of free memory: a 24 GiB card never reaches 24.",
        evidence=show("ATLAS_16a"),
        variant=wrong.old_tiers,
        discriminating_input=(24.0,),
    ),
    Bug(
        id="ATLAS-16b",
        formula="",
        title="bfloat16 where it is emulated",
        document=f"{ATLAS}, hardware.py, before",
        claim="torch.cuda.is_bf16_supported() decides",
        verdict="real bug, right fix",
        source="NVIDIA, CUDA C Programming Guide: bfloat16 and TF32 from compute capability 8.0",
        finding="That function also counts emulation, so that a Turing card is sent to bfloat16. The fix asks for TF32 "
        "as well, which is compute capability 8.0; asking for that is the rule.",
        evidence=show("ATLAS_16b"),
    ),
    Bug(
        id="ATLAS-17",
        formula="",
        title="a conditioned network is captured without its condition",
        document=f"{ATLAS}, cuda_graphs.py",
        claim="more than three parameters (self, x, t) mean variable conditioning",
        verdict="real bug, wrong fix",
        source="inspect.signature of a bound method; PyTorch notes on CUDA graphs",
        finding="A bound method does not show self: (x, t, cond) has three parameters and stays captured, so does a "
        "keyword-only cond, and so do *args and **kwargs. Just this case was to be caught.",
        evidence=show("ATLAS_17"),
    ),
    Bug(
        id="ATLAS-18a",
        formula="",
        title="Python's own generator is not seeded",
        document=f"{ATLAS}, random.py, before and after",
        claim="seeding makes runs reproducible",
        verdict="real bug, wrong fix",
        source="the same seed must give the same draws from every generator",
        finding="torch and NumPy are seeded, random is not, before and after the change.",
        evidence=show("ATLAS_18a"),
    ),
    Bug(
        id="ATLAS-18b",
        formula="",
        title="determinism cannot be turned off again",
        document=f"{ATLAS}, random.py",
        claim="deterministic mode was made optional",
        verdict="real bug, wrong fix",
        source="the flags of torch.backends.cudnn, before and after",
        finding="It is on by default, and once on it stays on: strict=False only refrains from setting the flags. "
        "use_deterministic_algorithms and the cuBLAS workspace are not touched.",
        evidence=show("ATLAS_18b"),
    ),
    Bug(
        id="ATLAS-19",
        formula="",
        title="a missing parenthesis in memory.py",
        document=f"{ATLAS}, memory.py",
        claim="a missing parenthesis was restored",
        verdict="process",
        source="ast.parse of every version in the public history",
        finding="No public version of memory.py fails to parse. Here every file of the package is parsed by a test.",
        evidence=show("ATLAS_19"),
    ),
    Bug(
        id="ATLAS-20",
        formula="",
        title="an extra parenthesis in nystrom.py",
        document=f"{ATLAS}, nystrom.py",
        claim="an extra parenthesis was removed; production ready",
        verdict="process",
        source="ast.parse of every version in the public history",
        finding="It lived for ten minutes of the fixing itself, and the commit of the changelog does not import: a "
        "parenthesis of rff.py is open for two days.",
        evidence=show("ATLAS_20"),
    ),
    *(
        Bug(
            id=id,
            formula="",
            title=title,
            document=f"{MEMORY}, {where}",
            claim=claim,
            verdict="process",
            source="behaviour",
            finding=finding,
            evidence=show(id.replace("-", "_")),
        )
        for id, title, where, claim, finding in (
            (
                "MEM-24",
                "a setting that is missing is read with a default",
                "train.py",
                "getattr with defaults makes the configuration robust",
                "It also makes a misspelt name a silent default. Settings are defined once, with their defaults; a "
                "name that is not among them is an error.",
            ),
            (
                "MEM-25",
                "command-line overrides",
                "train.py",
                "settings can be overridden on the command line",
                "An override must reach the nested setting, keep its type, leave the original alone, and refuse a "
                "name that is not there.",
            ),
            (
                "MEM-26",
                "configuration files are merged",
                "train.py, Hydra",
                "the configuration is composed with Hydra",
                "What a user wants of it needs no dependency: later overrides win, and a merge does not change its "
                "parts.",
            ),
            (
                "MEM-27",
                "logging without a network",
                "train.py, wandb",
                "training runs offline",
                "A log is a local file that is whole after every line, also when the run is killed, and that a "
                "resumed run goes on with.",
            ),
            (
                "MEM-31",
                "num_workers=0",
                "train.py",
                "loading without worker processes avoids hangs",
                "The number of workers must change the speed and not the batches: with one seed they are the same.",
            ),
            (
                "MEM-32",
                "plots without a display",
                "evaluate.py",
                "the Agg backend is set",
                "A figure drawn through the figure's own canvas needs no display and no global backend.",
            ),
        )
    ),
    Bug(
        id="MEM-28a",
        formula="training.warmup_cosine_factor",
        title="the learning rate is set after the update",
        document=f"{MEMORY}, train.py, before and after",
        claim="warm-up was missing and is fixed",
        verdict="real bug, wrong fix",
        source="Goyal et al. 2017 §2.2: the first updates are the small ones",
        finding="Nothing was changed: the first update runs at the full rate, the second at 0, and the peak of the "
        "warm-up is never reached.",
        evidence=show("MEM_28a"),
        variant=wrong.set_after_the_step,
        discriminating_input=SCHEDULE,
    ),
    Bug(
        id="MEM-28b",
        formula="training.warmup_cosine_factor",
        title="the cosine starts from the last rate of the warm-up",
        document=f"{MEMORY}, train.py, before and after",
        claim="cosine annealing after the warm-up",
        verdict="real bug, wrong fix",
        source="Loshchilov & Hutter 2017 (1608.03983) eq. 5",
        finding="CosineAnnealingLR multiplies the rate it finds, (W − 1)/W: for W = 5 the rates are 1, 0, 0.2, 0.4, "
        "0.6, 0.8, 0.796.",
        evidence=show("MEM_28b"),
        variant=wrong.cosine_from_the_last_warm_up_rate,
        discriminating_input=SCHEDULE,
    ),
    Bug(
        id="MEM-28c",
        formula="training.warmup_cosine_factor",
        title="the rate rises again after the last update",
        document="diffusers and transformers: get_cosine_schedule_with_warmup",
        claim="max(0, (1 + cos π s)/2) for s > 1 as well",
        verdict="convention",
        source="Loshchilov & Hutter 2017 (1608.03983) eq. 5 ends at T",
        finding="Up to T it is the same. Whoever trains longer than announced is sent back to the full rate by "
        "2 T − W; here the rate stays at its floor.",
        evidence=show("MEM_28c"),
        variant=wrong.rebounding,
        discriminating_input=(np.arange(31), 5, 20, 0.1),
    ),
    *(
        Bug(
            id=f"MEM-29{letter}",
            formula="training.clip_by_global_norm",
            title=title,
            document=document,
            claim="gradient clipping at 1.0 was missing and is fixed",
            verdict=verdict,
            source="Pascanu, Mikolov & Bengio 2013 Alg. 1",
            finding=finding,
            evidence=show(f"MEM_29{letter}"),
            variant=variant,
            discriminating_input=(np.array([[3.0, -4.0], [0.5, 12.0]]), 1.0)
            if letter != "d"
            else (np.array([0.03, -0.04]), 1.0),
        )
        for letter, title, document, verdict, finding, variant in (
            (
                "a",
                "no clipping",
                f"{MEMORY}, train.py",
                "claim false",
                "It was there before: the diff of train.py has no line about clipping, warm-up or a schedule.",
                wrong.not_clipped,
            ),
            (
                "b",
                "every element is clamped",
                "not documented: clip_grad_value_",
                "convention",
                "Another operation under a like name: it changes the direction, and the norm may reach √n c.",
                wrong.clamped_elements,
            ),
            (
                "c",
                "every parameter is clipped on its own",
                UNDOCUMENTED,
                "no bug",
                "P parameters of norm c each have a global norm of √P c, and the direction is another.",
                wrong.each_parameter_clipped,
            ),
            (
                "d",
                "small gradients are blown up to the norm c",
                UNDOCUMENTED,
                "no bug",
                "Near a minimum the gradient vanishes; normalised to c it does not, and training does not settle.",
                wrong.always_scaled,
            ),
        )
    ),
)
