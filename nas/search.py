"""The search: weights and architecture of a supernet are trained in turns, and a genotype is derived."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from msgspec import UNSET, UnsetType
from torch import Tensor, nn

import genotypes
import spaces
from genotypes import Genotype
from nas import data
from nas.data import Batch, ImageData, Loader
from nas.engine.device import Precision, resolve_device, resolve_precision
from nas.engine.graphs import Step, captured
from nas.engine.meter import Meter, evaluation_step, measure
from nas.engine.optimizers import OptimizerState, ScheduleState, advance, learning_rate
from nas.errors import users_mistakes
from nas.methods import combinations
from nas.methods.bilevel import Bilevel
from nas.methods.config import SearchConfig
from nas.methods.derivation import Derivation
from nas.methods.diagnostics import diagnose, discretization_gap
from nas.methods.projection import Projection
from nas.methods.random_ws import UniformSampling, mixing_of
from nas.methods.spectrum import dominant_eigenvalue
from nas.methods.stages import Stage, plan, without_weakest
from nas.methods.stops import Seen, best_with_parameters
from nas.networks.edge_costs import costs_in
from nas.networks.forms import Form, form_of
from nas.runs import mixing as mixing_files
from nas.runs import record, tensorboard
from nas.runs.record import SearchRecord, SearchResult
from nas.runs.run import Run, Stateful, directory_of
from nas.runs.same_data import SameData
from nas.supernet import Supernet
from spaces import Kind, Mixing
from spaces.kernels.norm import frozen_statistics


class Loaders(NamedTuple):
    """Batches for the weights, for the architecture, and the latter's images without augmentation, for evaluation."""

    weights: Loader
    architecture: Loader
    held_out: Loader


class Steps(NamedTuple):
    """The three steps on batches, of the bilevel problem itself or as CUDA graphs."""

    architecture: Step
    weights: Step
    evaluation: Step


class Meters(NamedTuple):
    """Loss and accuracy of an epoch: of the two kinds of steps, and of the held-out images after them."""

    weights: Meter
    architecture: Meter
    held_out: Meter


class Derived:
    """The genotypes of all epochs as JSON, saved because another device might round a tie the other way."""

    def __init__(self) -> None:
        self.genotypes: list[str] = []

    def state_dict(self) -> dict[str, str]:
        """The genotypes, epoch by epoch, as one JSON text."""
        return {"genotypes": json.dumps(self.genotypes)}

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Takes over the genotypes of a checkpoint."""
        self.genotypes = json.loads(state["genotypes"])


def search(config: SearchConfig, *, images: ImageData | None = None) -> SearchResult:
    """Runs (or resumes) a search in its run directory and returns its result, as in `result.json`.

    Args:
        config: everything that decides the search.
        images: replace those that `config.data` names.

    Raises UsageError for a user error, before anything is written; NonFiniteLossError; Stopped.
    """
    with users_mistakes():
        device = resolve_device(config.run.device)
        precision = resolve_precision(config.precision, device, exactly=config.bilevel.needs_fp32)
        # Goes into config.json, which must be the same for a resumed run.
        config = replace(config, precision=precision)
        images = data.load(config.data) if images is None else images
    torch.manual_seed(config.seed)
    running = Search(config, images, device, precision)
    name = f"search-{config.data.dataset}-{config.space.space.replace(':', '.')}-seed{config.seed}"
    directory = directory_of(config.run, config, default_name=name, device=device)
    run = Run(
        directory,
        running.tracked,
        device=device,
        deterministic=config.run.deterministic,
        epochs=running.epochs,
        steps=len(running.loaders.weights),
    )
    with run:
        running.same_data.report(directory)
        steps = len(running.loaders.weights)
        directory.log(
            f"searching {config.space.space} on {config.data.dataset}: {config.supernet.layers} cells of "
            f"{config.supernet.init_channels} channels, {running.epochs} epochs of {steps} steps on {device} in "
            f"{precision}, in {directory.path}"
        )
        if running.ended:
            run.end()
        for _ in run.epochs():
            running.epoch(run)
        return running.finish(run)


class Search:
    """A search: its space, the supernet of its current stage, and all that trains them.

    Args:
        config: everything that decides it.
        images: what it learns from.
        device: where it computes.
        precision: of the forward passes.

    Raises ValueError or UsageError for what cannot be combined. Nothing is written before `epoch`.
    """

    def __init__(self, config: SearchConfig, images: ImageData, device: torch.device, precision: Precision) -> None:
        self.config, self.images, self.device, self.precision = config, images, device, precision
        with users_mistakes():
            self._combine()
        self.loaders = _loaders(config, images, device)
        with users_mistakes():
            #: What a search by random sampling chooses from in the end.
            self.candidates = self._candidates()
        self.same_data = SameData(images)
        self.meters, self.derived = Meters(Meter(), Meter(), Meter()), Derived()
        #: What a checkpoint holds, in the order in which it is restored. The entries of a stage are replaced by those
        #: of the next.
        self.tracked: dict[str, Stateful] = {
            "data": self.same_data,  # first: for other classes, loading the network would fail without saying why
            "relaxation": self.relaxation,
            "space": self.space,
            "stage": CurrentStage(self),  # before what it builds, after the masks in the space
        }
        self.enter(0)
        self.tracked |= {f"{name}_meter": meter for name, meter in self.meters._asdict().items()}
        self.tracked |= {"derived": self.derived} | ({} if self.rule is None else {"stop": self.rule})
        self.tracked |= {} if self.derivation.latency is None else {"derivation": self.derivation}

    def _combine(self) -> None:
        """Makes the parts that the configuration names. Raises ValueError for those that cannot be combined."""
        config = self.config
        self.space = spaces.build(config.space, seed=config.seed).to(self.device)
        relaxation = config.method.build()
        if config.projects:
            relaxation = Projection(relaxation, self.space, seed=config.seed)
        self.relaxation = relaxation.to(self.device)
        self.stages = self._planned()
        combinations.check(config, self.space, self.relaxation, self.stages)
        self.relaxation.begin(self.space, seed=config.seed)
        self.derivation = Derivation(config.derivation, self.space, self.relaxation, self._form())
        self.regularizer = config.regularizer.build(self.space, self._costs())
        self.perturbation = config.perturbation.build(self.space)
        if self.perturbation is not None:
            self.perturbation.check(self.space, self.relaxation)
        self.rule = config.stop.build()

    def _candidates(self) -> list[Genotype]:
        if not isinstance(self.relaxation, UniformSampling):
            return []
        steps = self.epochs * len(self.loaders.weights)
        sampler = self.derivation.sampler(self.space)
        return self.relaxation.candidates(sampler, steps=steps, seed=self.config.seed)

    def _form(self) -> Form:
        """The network that the data set's genotypes are trained in."""
        images = self.images
        return form_of(
            self.config.data.dataset,
            in_channels=images.channels,
            image_size=images.image_size,
            num_classes=images.num_classes,
        )

    @property
    def ended(self) -> bool:
        """Whether a rule has ended it early."""
        return self.rule is not None and self.rule.take >= 0

    @property
    def epochs(self) -> int:
        """The epochs of all stages."""
        return self.stages[-1].begin + self.stages[-1].epochs

    def _planned(self) -> tuple[Stage, ...]:
        stages = plan(self.config.stages, self.config.epochs)
        if not self.config.projects:
            return stages
        epochs = self.config.projection.epochs(self.space)
        last = replace(
            stages[-1], number=len(stages), begin=self.config.epochs, epochs=epochs, skip_dropout=0.0, warm_up=0
        )
        return (*stages, replace(last, projection=True))

    def _costs(self) -> Mapping[Kind, Tensor] | None:
        if not self.config.regularizer.cost_weight:
            return None
        costs = costs_in(self.space, self.derivation.form)
        return costs.params if self.config.regularizer.cost == "params" else costs.macs

    def enter(self, number: int) -> None:
        """Begins a stage: with the supernet of the operations that are left, its optimizers and its schedule."""
        self.stage = stage = self.stages[number]
        self.bilevel = self._bilevel(stage)
        if stage.projection:
            assert isinstance(self.relaxation, Projection)
            self.relaxation.begun = True
            end = self.config.projection.projection_learning_rate_min
        else:
            end = self.config.bilevel.learning_rate_min
        optimizer = self.bilevel.weight_optimizer
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, stage.epochs, eta_min=end)
        evaluation = partial(evaluation_step, self.bilevel.predict, precision=self.precision)
        plain = Steps(self.bilevel.architecture_step, self.bilevel.weight_step, evaluation)
        self.steps = Steps(*captured(*plain, device=self.device, enabled=self.config.run.cuda_graph))
        self.tracked |= {
            "supernet": self.bilevel.supernet,
            "weight_optimizer": OptimizerState(optimizer),
            "architecture_optimizer": OptimizerState(self.bilevel.architecture_optimizer),
            "schedule": ScheduleState(self.schedule),
        }

    def _bilevel(self, stage: Stage) -> Bilevel:
        config = self.config.bilevel
        if stage.projection:
            config = replace(config, learning_rate=self.config.projection.projection_learning_rate)
        supernet = Supernet(
            self.space,
            stage.supernet(self.config.supernet),
            in_channels=self.images.channels,
            image_size=self.images.image_size,
            num_classes=self.images.num_classes,
            skip_dropout=stage.skip_dropout > 0,
        ).to(self.device)
        return Bilevel(
            supernet,
            self.space,
            config,
            nn.CrossEntropyLoss(),
            self.precision,
            self.relaxation,
            # The projection tunes the supernet that it measures, and nothing else.
            None if stage.projection else self.regularizer,
            None if stage.projection else self.perturbation,
        )

    def epoch(self, run: Run) -> None:
        """The rest of the current epoch: steps, evaluation on the held-out images, report, perhaps the next stage."""
        of_stage = run.epoch - self.stage.begin
        self._set_schedules(of_stage)
        if self.stage.projection:
            self._decide(run, of_stage)
        self.bilevel.supernet.train()
        if of_stage < self.stage.warm_up or not self.relaxation.trains_architecture:
            self._train_weights(run)
        else:
            self._train_both(run)
        genotype = self._evaluate(run)
        self._report(run, genotype)
        advance(self.schedule)
        self.meters.weights.reset()
        self.meters.architecture.reset()
        if of_stage + 1 == self.stage.epochs and self.stage.number + 1 < len(self.stages):
            self._next_stage(run)

    def _set_schedules(self, epoch: int) -> None:
        """What changes with the epoch, counted within the stage."""
        for scheduled in (self.relaxation, self.regularizer, self.perturbation):
            if scheduled is not None:
                scheduled.schedule(epoch, self.stage.epochs)
        self.bilevel.supernet.skip_dropout_rate.fill_(self.stage.skip_dropout_rate(epoch))

    def _decide(self, run: Run, epoch: int) -> None:
        """The decision that is due at the beginning of an epoch of the projection, if any."""
        number, rest = divmod(epoch, self.config.projection.projection_every)
        if rest == 0:
            assert isinstance(self.relaxation, Projection)
            self.relaxation.decide(self.space, number, partial(self._accuracy, run))

    def _accuracy(self, run: Run, mixing: Mixing, batch: int | None = None) -> float:
        """The accuracy on the held-out images in percent, or on one batch of them, by its number."""
        loader, meter = self.loaders.held_out, Meter()
        if batch is None:
            self._measure(run, mixing, loader.epoch(0), meter)
        else:
            self._measure(run, mixing, itertools.islice(loader.epoch(0, batch % len(loader)), 1), meter)
        return meter.accuracy

    def _measure(self, run: Run, mixing: Mixing, batches: Iterable[Batch], meter: Meter) -> None:
        """Measures the supernet with given mixing weights; with the BatchNorms of the batches, as in DARTS-PT."""
        supernet = self.bilevel.supernet.train()
        step = partial(evaluation_step, partial(supernet, mixing=mixing), precision=self.precision)
        with frozen_statistics(supernet):
            measure(step, run.interruptible(batches), meter)

    def _train_both(self, run: Run) -> None:
        """Alternates both steps (DARTS, algorithm 1)."""
        train_batches = self.loaders.weights.epoch(run.epoch, run.step)
        valid_batches = endless(self.loaders.architecture, run.epoch * len(self.loaders.weights) + run.step)
        for train, valid in run.steps(zip(train_batches, valid_batches, strict=False), self.meters.weights):
            # Read at once: the outputs of a captured step are overwritten by the next step.
            loss, logits = self.steps.architecture(train, valid)
            self.meters.architecture.update(loss, logits, valid[1])
            loss, logits = self.steps.weights(train)
            self.meters.weights.update(loss, logits, train[1])

    def _train_weights(self, run: Run) -> None:
        """Steps of the weights alone."""
        for train in run.steps(self.loaders.weights.epoch(run.epoch, run.step), self.meters.weights):
            loss, logits = self.steps.weights(train)
            self.meters.weights.update(loss, logits, train[1])

    def _evaluate(self, run: Run) -> Genotype:
        """Measures the held-out images after the steps of an epoch; returns its genotype."""
        batches, meter = self.loaders.held_out.epoch(run.epoch), self.meters.held_out
        if isinstance(self.relaxation, UniformSampling):
            genotype = self._sampled(run, self.relaxation)
            # Running statistics are of all architectures together, those of the batches of this one.
            self._measure(run, mixing_of(self.space, genotype), batches, meter)
            run.check_finite()
            return genotype
        self.bilevel.supernet.eval()
        measure(self.steps.evaluation, run.interruptible(batches), meter)
        run.check_finite()
        return self.derivation.derive(self.space, self.relaxation)

    def _sampled(self, run: Run, sampling: UniformSampling) -> Genotype:
        """The best of the candidates after the last epoch, and the first of them before."""
        if run.epoch + 1 < self.epochs:
            return self.candidates[0]
        run.directory.log(f"measuring {len(self.candidates)} random architectures with the weights of the search")
        genotype, accuracy = sampling.choose(self.space, self.candidates, partial(self._accuracy, run))
        run.directory.log(f"the best of them is right on {accuracy:.2f} % of the held-out images")
        return genotype

    def _report(self, run: Run, genotype: Genotype) -> None:
        space, meters, number = self.space, self.meters, run.epoch + 1
        mixing = self.relaxation.expected(space)
        gap = self._gap(run, genotype)  # may be interrupted: before anything is kept of this epoch
        self.derived.genotypes.append(genotypes.to_json(genotype))
        with run.directory.auxiliary("genotypes"):
            (run.directory.path / "genotypes").mkdir(exist_ok=True)
            genotypes.save(genotype, run.directory.path / "genotypes" / f"epoch_{number:03d}.json")
        with run.directory.auxiliary(mixing_files.FOLDER):
            mixing_files.write(run.directory.path, space, mixing, number)
        eigenvalue = self._eigenvalue(run.epoch)
        of_architecture = {"arch_loss": meters.architecture.loss, "arch_accuracy": meters.architecture.accuracy}
        run.add_metrics(
            {
                "train_loss": meters.weights.loss,
                "train_accuracy": meters.weights.accuracy,
                **(of_architecture if meters.architecture.images else {}),
                "valid_loss": meters.held_out.loss,
                "valid_accuracy": meters.held_out.accuracy,
                "learning_rate": learning_rate(self.bilevel.weight_optimizer),
                **diagnose(space, mixing, genotype),
                **({} if eigenvalue is None else {"eigenvalue": eigenvalue}),
                **({} if gap is None else {"discretization_gap": gap}),
            }
        )
        with run.directory.auxiliary("tb"):
            tensorboard.add_mixing(run.tensorboard, space, mixing, number)
            if self.config.log_logits:
                tensorboard.add_logits(run.tensorboard, space, number)
            tensorboard.add_genotype(run.tensorboard, genotype, number)
        left, slots = sum(space.left_start(mixing).values()), sum(map(len, space.peaked.values()))
        note = f", {left} of {slots} slots have left the start" if slots else ""
        run.log_epoch({"train": meters.weights, "valid": meters.held_out}, note)
        # An epoch without architecture steps says nothing of the architecture: it has only stayed where it started.
        if self.rule is not None and meters.architecture.images:
            best = best_with_parameters(space, mixing)
            self.rule.update(Seen(epoch=run.epoch, genotype=genotype, best=best, eigenvalue=eigenvalue))
            if self.ended:
                run.end()
                run.directory.log(
                    f"the search ends: {self.rule.reason}; taking the genotype of epoch {self.rule.take + 1}"
                )

    def _gap(self, run: Run, genotype: Genotype) -> float | None:
        """What the genotype of the last epoch loses against the mixture, where that was trained."""
        if run.epoch + 1 < self.epochs or not self.relaxation.trains_architecture:
            return None
        return discretization_gap(self.bilevel, genotype, run.interruptible(self.loaders.held_out.epoch(run.epoch)))

    def _eigenvalue(self, epoch: int) -> float | None:
        if not self.config.stop.measures(epoch):
            return None
        return dominant_eigenvalue(self.bilevel, next(iter(self.loaders.held_out.epoch(0))))

    def _next_stage(self, run: Run) -> None:
        number, trained = self.stage.number + 1, self.bilevel.supernet
        if self.stages[number].projection:
            self.enter(number)
            self.bilevel.supernet.load_state_dict(trained.state_dict())
            run.directory.log(f"projection: {Projection.decisions(self.space)} decisions in {self.stage.epochs} epochs")
            return
        weights = self.relaxation.expected_weights(self.space)
        self.space.restrict(without_weakest(self.space, weights, self.config.stages.drop[number - 1]))
        if not self.config.stages.keep_logits:
            self.space.initialize(self.config.space.init, gap=self.config.space.init_gap)
        self.enter(number)
        left = len(self.space.operations) - sum(self.config.stages.drop[:number])
        run.directory.log(f"stage {number + 1} of {len(self.stages)}: {left} operations on each edge")

    def finish(self, run: Run) -> SearchResult:
        """Leaves the genotype, its pictures and the record; returns the result."""
        config, directory = self.config, run.directory
        # Without a rule that has chosen another epoch, that of the last.
        taken = self.rule.take if self.rule is not None else -1
        genotype = genotypes.from_json(self.derived.genotypes[taken], "the checkpoint")
        genotypes.save(genotype, directory.path / "genotype.json")
        tensorboard.draw_cells(directory, genotype, f"{config.space.space}, ")
        params, macs = self._size(genotype)
        result = SearchResult(
            run_dir=str(directory.path),
            space=config.space.space,
            dataset=config.data.dataset,
            genotype=genotypes.to_text(genotype),
            valid_accuracy=self.meters.held_out.accuracy,
            params=params,
            macs=macs,
            latency_ms=self._latency(genotype),
            epochs=run.epoch,
            seconds=round(run.seconds, 3),
        )
        # Not the table's path, which may differ when the search is resumed.
        table = None if self.derivation.latency is None else self.derivation.latency.digest
        settings = {**directory.settings, "derivation.latency_table": table}
        found = SearchRecord(seed=config.seed, settings=settings, data=self.same_data.summary, result=result)
        record.write(directory, found)
        directory.log(
            f"genotype and pictures of its cells written to {directory.path}: genotype.json, normal.svg, reduce.svg"
        )
        if params is not UNSET:
            directory.log(
                f"its network for these images: {self.derivation.form}, {params:,} parameters, {macs:,} multiply-adds"
            )
        if result.latency_ms is not UNSET:
            directory.log(f"its latency as {config.derivation.latency_table} predicts it: {result.latency_ms:.3f} ms")
        return result

    def _size(self, genotype: Genotype) -> tuple[int, int] | tuple[UnsetType, UnsetType]:
        """Parameters and multiply-adds of the genotype's network; UNSET where they cannot be counted."""
        try:
            return costs_in(self.space, self.derivation.form).total(self.space, genotype)
        except (RuntimeError, ValueError):
            # A user's operation that does not compute on the meta device, or a derivation of other edges or operations
            # than the space's, must not cost a search its result.
            return UNSET, UNSET

    def _latency(self, genotype: Genotype) -> float | UnsetType:
        """Predicted milliseconds of the genotype's network; UNSET where nothing predicts them."""
        try:
            return UNSET if self.derivation.latency is None else self.derivation.latency.predicted(genotype)
        except ValueError:
            return UNSET  # the derivation of a user's own kind keeps other edges than the space's


class CurrentStage:
    """The number of a search's stage in its checkpoint. Restoring it builds what the stage trains."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def state_dict(self) -> dict[str, int]:
        """The number of the stage."""
        return {"number": self._search.stage.number}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Enters the stage. Raises ValueError for one that the search does not have."""
        if not 0 <= state["number"] < len(self._search.stages):
            raise ValueError(f"its stage {state['number']} is none of this search")
        if state["number"] != self._search.stage.number:
            self._search.enter(state["number"])


def _loaders(config: SearchConfig, images: ImageData, device: torch.device) -> Loaders:
    weights, architecture = images.search_split(seed=config.seed, train_portion=config.train_portion)
    return Loaders(
        images.train_loader(seed=config.seed, indices=weights, device=device),
        # A purpose, not another seed: no random numbers are shared with the other half, nor with another run.
        images.train_loader(seed=config.seed, purpose="architecture", indices=architecture, device=device),
        images.train_loader(seed=config.seed, indices=architecture, augment=False, device=device),
    )


def endless(loader: Loader, start: int) -> Iterator[Batch]:
    """Yields the batches of epoch after epoch of a loader, from step number `start` on, counted over all epochs."""
    epoch, step = divmod(start, len(loader))
    yield from loader.epoch(epoch, step)
    for later in itertools.count(epoch + 1):
        yield from loader.epoch(later)
