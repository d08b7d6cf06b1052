"""Trains several methods with several seeds, one run after the other, and writes report.html on them.

    python compare.py comparison.yaml
    python compare.py --dataset camvid --data data/CamVid --student-model deeplabv3 --student-backbone resnet18 \
        --teacher-checkpoint deeplabv3_resnet101_camvid_best_model.pth --methods baseline cirkdv2 cwd --seeds 0 1 2 \
        --iterations 2000 --output runs/compare_camvid -- --crop-size 360 360 --batch-size 8

The same command resumes after an interruption and repeats nothing that is finished. comparison.yaml:

    dataset: camvid
    data: data/CamVid
    output: runs/compare_camvid
    teacher: {checkpoint: deeplabv3_resnet101_camvid_best_model.pth}
    student: {model: deeplabv3, backbone: resnet18, pretrained_base: timm}
    methods: [baseline, cirkdv2, {name: cwd twice, method: cwd, flags: --lambda-cwd-fea 100, seeds: [0, 1, 2, 3]}]
    seeds: [0, 1, 2]
    seconds: 3600                     # of training; or iterations: 2000
    train_flags: --crop-size 360 360 --batch-size 8
"""

import argparse
import shlex
import sys
from pathlib import Path

from comparison.jobs import check_before_running, make_jobs, training_command
from comparison.pictures import PICTURES
from comparison.records import FINISHED
from comparison.report import write_report
from comparison.runner import refuse_other_settings, remove_runs, run_jobs
from comparison.spec import Spec, add_spec_args, read_spec
from comparison.summary import format_table
from utils.cli import EXIT_INTERRUPTED, Parser, run_cli
from utils.lock import hold_folder


def parse_args() -> tuple[argparse.Namespace, Spec]:
    parser = Parser("Compare methods: train each with every seed, evaluate, and write a report.")
    add_spec_args(parser)
    parser.add_argument("--overwrite", action="store_true", help="delete the runs of this comparison and start over")
    parser.add_argument("--report-only", action="store_true", help="write the report without training")
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the commands")
    words = sys.argv[1:]
    own = words.index("--") if "--" in words else len(words)
    for index in range(1, own):  # argparse would take a value such as --lr for a flag; a leading space prevents it
        if words[index - 1] == "--eval-flags" or (index > 1 and words[index - 2] == "--method-flags"):
            words[index] = f" {words[index]}"
    args = parser.parse_args(words[:own])
    return args, read_spec(vars(args), words[own + 1 :])


def main() -> None:
    args, spec = parse_args()
    command = [Path(sys.executable).name, *sys.argv]
    again = shlex.join([word for word in command if word != "--overwrite"])
    jobs = make_jobs(spec)

    if not args.report_only:
        check_before_running(spec, jobs)
    if args.dry_run:
        print("\n".join(shlex.join(training_command(job, spec)) for job in jobs))
        return
    spec.output.mkdir(parents=True, exist_ok=True)
    if not args.report_only and (warning := hold_folder(spec.output, "choose another --output")):
        print(f"WARNING {warning}")
    if args.overwrite and not args.report_only:
        remove_runs(jobs, spec)
    refuse_other_settings(jobs)

    # runs
    if not args.report_only:
        try:
            run_jobs(jobs, spec)
        except KeyboardInterrupt:
            print(f"interrupted; finished runs are kept. Resume with the same command:\n  {again}", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)

    # report
    summary = write_report(spec, jobs, shlex.split(again))
    print(f"\n{spec.dataset} {spec.split}, {summary['images'] or 0} images\n{format_table(summary)}")
    print(f"report:     {spec.output / 'report.html'}")
    if (spec.output / PICTURES).is_dir():
        print(f"pictures:   {spec.output / PICTURES}")
    failed = [run for run in summary["runs"] if run["status"] != FINISHED]
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs are not finished; retry with the same command:\n  {again}")
        sys.exit(1)


if __name__ == "__main__":
    run_cli(main)
