"""What a frame of a page costs, measured so that a slow or busy machine changes nothing."""

from selenium.webdriver.chromium.webdriver import ChromiumDriver
from selenium.webdriver.remote.webelement import WebElement

LONGEST_FRAME = 2.0
"""Script of a frame, in loops of a million steps: 4 ms each on a machine of 2024, where a frame of
60 a second has 16.7 ms."""

DRAG = """
    const done = arguments[arguments.length - 1], slider = arguments[0];
    let left = arguments[1];
    const next = () => {
        if (left-- === 0) return done();
        slider[left % 20 < 10 ? "stepUp" : "stepDown"]();
        slider.dispatchEvent(new Event("input", {bubbles: true}));
        requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
"""
LOOP = """
    const done = arguments[0], orbit = new Float64Array(1000);
    requestAnimationFrame(() => {
        for (let i = 0; i < 1000; i++) {
            orbit[0] = i / 1000;
            for (let j = 1; j < 1000; j++)
                orbit[j] = 3.9 * orbit[j - 1] * (1 - orbit[j - 1]);
        }
        done(orbit[999]);
    });
"""


def frame_in_loops(driver: ChromiumDriver, slider: WebElement, frames: int, rounds: int) -> float:
    """Script of a frame in which a slider is moved, in loops of a million steps.

    It is time on the page's thread, not on the clock, and against that of a loop of known length
    in the same page; the fastest of some rounds, which no other process has interrupted.
    """
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

    def script_time():
        metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "ScriptDuration")

    def spent(script, *arguments):
        before = script_time()
        driver.execute_async_script(script, *arguments)
        return script_time() - before

    found = [(spent(DRAG, slider, frames) / frames, spent(LOOP)) for _ in range(rounds)]
    driver.execute_cdp_cmd("Performance.disable", {})
    frame, million = map(min, zip(*found, strict=True))
    return frame / million
