"""Progress in words, and what is said where memory runs out."""

import pytest
import torch

from echoreel_core.training.config import TrainingSettings, VideoSettings
from echoreel_core.training.progress import Pace, duration, memory_advice, step_line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 seconds"),
        (1, "1 second"),
        (59, "59 seconds"),
        (65, "1 minute"),
        (3170, "53 minutes"),
        (3600 * 5.2, "5 hours"),
        (86400 * 3, "3 days"),
    ],
)
def test_lengths_of_time_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def test_the_pace_is_that_of_the_latest_steps():
    times = iter([0.0, *range(100, 2100, 100), *(2000 + 3.2 * step for step in range(1, 41))])
    pace = Pace(lambda: next(times))
    for _ in range(20):
        pace.tick()
    assert pace.seconds == 100
    for _ in range(40):
        pace.tick()
    assert step_line(12, 1000, 0.4123, pace) == "step 12 of 1000, loss 0.412, 3.2 s a step, 53 minutes left"
    assert step_line(1000, 1000, 0.4123, pace) == "step 1000 of 1000, loss 0.412, 3.2 s a step"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_where_memory_runs_out_the_settings_that_need_less_are_named(error):
    video = VideoSettings(frames=16, width=256, height=256)
    with (
        pytest.raises(
            ValueError,
            match="gradient_checkpointing on; mixed_precision bf16; optimizer adamw8bit with a tenth of learning_rate; "
            "batch_size below 4; frames",
        ),
        memory_advice(TrainingSettings(batch_size=4), video),
    ):
        raise error
    adamw = TrainingSettings(optimizer="adamw", gradient_checkpointing=True)
    with pytest.raises(ValueError) as told, memory_advice(adamw, video):
        raise error
    assert "checkpointing" not in str(told.value) and "batch_size" not in str(told.value)
    assert "offload_activations on; mixed_precision bf16; optimizer adamw8bit; frames" in str(told.value)
    used = TrainingSettings(mixed_precision="fp16", optimizer="adamw8bit")
    with pytest.raises(ValueError) as told, memory_advice(used, video, "frame_count"):
        raise error
    assert "gradient_checkpointing on; frame_count below 16" in str(told.value)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="^shapes$"), memory_advice(TrainingSettings(), VideoSettings()):
        raise RuntimeError("shapes")
