"""A headless Chromium, driven through its own driver; skips where one of them is absent."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars")


class Page:
    """One page. Every method may be called from the event loop; the browser is asked in a thread."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def open(self, url: str) -> None:
        await asyncio.to_thread(self._driver.get, url)

    async def size(self, width: int, height: int = 1000) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self._command("Emulation.setDeviceMetricsOverride", metrics)

    async def scheme(self, word: str) -> None:
        """`light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": word}]
        await self._command("Emulation.setEmulatedMedia", {"features": features})

    async def run(self, script: str, *arguments: Any) -> Any:
        """What the script returns."""
        return await asyncio.to_thread(self._driver.execute_script, script, *arguments)

    async def text(self, selector: str) -> str:
        """Of the first such element; "" while there is none."""
        return str(await self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    async def value(self, selector: str) -> float | None:
        """The number behind what is shown there."""
        found = await self.run("return document.querySelector(arguments[0])?.dataset.value ?? null", selector)
        return None if found is None else float(found)

    async def click(self, selector: str) -> None:
        await asyncio.to_thread(self._click, selector)

    def _click(self, selector: str) -> None:
        self._driver.find_element("css selector", selector).click()

    async def press(self, *keys: str) -> None:
        """To whatever has the focus."""
        for key in keys:
            await asyncio.to_thread(self._press, key)

    def _press(self, key: str) -> None:
        self._driver.switch_to.active_element.send_keys(key)

    async def until(self, script: str, *arguments: Any, seconds: float = 20.0) -> Any:
        """Ask again until the script returns something that is true."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            found = await self.run(script, *arguments)
            if found:
                return found
            assert asyncio.get_running_loop().time() < deadline, f"never: {script}"
            await asyncio.sleep(0.05)

    async def complaints(self) -> list[str]:
        """What the console of the browser was told since it was last asked."""
        found = await asyncio.to_thread(self._driver.get_log, "browser")
        return [str(each["message"]) for each in found]

    async def _command(self, name: str, arguments: dict[str, Any]) -> None:
        await asyncio.to_thread(self._driver.execute_cdp_cmd, name, arguments)


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A fresh one, without a page."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no chromium with its chromedriver")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = await asyncio.to_thread(webdriver.Chrome, options=options, service=service.Service(DRIVER))
    try:
        yield Page(driver)
    finally:
        await asyncio.to_thread(driver.quit)
