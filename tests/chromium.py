"A small driver of headless Chromium over its DevTools protocol, for tests of the chat page."
import base64, itertools, json, shutil, subprocess, tempfile, time, urllib.request
from pathlib import Path

import websocket

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--hide-scrollbars", "--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"]
KEYS = dict(Enter=13, Escape=27, ArrowUp=38, ArrowDown=40, ArrowLeft=37, ArrowRight=39, Tab=9, Home=36, End=35)


def find():
    "The browser's path, or None."
    return next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)


class Browser:
    "One page in a fresh profile; messages of its console and its errors are collected."
    def __init__(self, width=1200, height=800):
        self.profile = tempfile.mkdtemp(prefix="chromium_")
        self.process = subprocess.Popen([find(), *FLAGS, f"--user-data-dir={self.profile}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = Path(self.profile) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (port.exists() and port.read_text().strip()) and time.monotonic() < deadline: time.sleep(.05)
        number = port.read_text().split()[0]
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{number}/json"))
        address = next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page")
        self.socket, self.numbers, self.console = websocket.create_connection(address, timeout=120), itertools.count(1), []
        for domain in ("Page", "Runtime", "Log", "Network"): self.send(domain + ".enable")
        self.size(width, height)

    def send(self, method, **params):
        "One command and its result."
        number = next(self.numbers)
        self.socket.send(json.dumps(dict(id=number, method=method, params=params)))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                if "error" in message: raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.note(message)

    def note(self, message):
        "Remember what the console says, and answer dialogs with yes."
        kind, p = message.get("method"), message.get("params", {})
        if kind == "Runtime.exceptionThrown": self.console.append("exception: " + json.dumps(p["exceptionDetails"])[:600])
        if kind == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"): self.console.append(p["entry"]["text"])
        if kind == "Runtime.consoleAPICalled": self.console.append(" ".join(str(a.get("value")) for a in p["args"]))
        if kind == "Page.javascriptDialogOpening":
            self.console.append("dialog: " + p["message"])
            self.socket.send(json.dumps(dict(id=next(self.numbers), method="Page.handleJavaScriptDialog", params=dict(accept=True))))

    def js(self, expression):
        "The value of an expression."
        r = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in r: raise RuntimeError(json.dumps(r["exceptionDetails"])[:800])
        return r["result"].get("value")

    def wait(self, expression, seconds=60):
        "Until an expression is true."
        deadline = time.monotonic() + seconds
        while not (value := self.true(expression)):
            if time.monotonic() > deadline: raise AssertionError(f"never became true: {expression}; console: {self.console}; page: {self.js('document.body.innerText')[:1500]}")
            time.sleep(.03)
        return value

    def true(self, expression):
        "Whether an expression is true now; a page that is just leaving has no answer."
        try: return self.js(f"Boolean({expression})")
        except RuntimeError as e:
            if "navigated" not in str(e) and "context" not in str(e): raise
            return False

    def open(self, url):
        self.send("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url[:12])})", 120)

    def size(self, width, height, dark=False):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value="dark" if dark else "light")])

    def click(self, selector, index=0):
        "With the mouse, on the middle of an element's first line."
        box = self.js(f"(() => {{ const e = [...document.querySelectorAll({json.dumps(selector)})].at({index}); e.scrollIntoView({{block: 'nearest'}}); "
                      "const r = e.getClientRects()[0]; return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="none" if kind == "mouseMoved" else "left", clickCount=0 if kind == "mouseMoved" else 1)

    def type(self, text): self.send("Input.insertText", text=text)

    def key(self, name, modifiers=0):
        text = dict(text="\r") if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=KEYS[name], modifiers=modifiers, **(text if kind == "keyDown" else {}))

    def screenshot(self, path): Path(path).write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        try: self.socket.close()
        finally:
            self.process.terminate()
            try: self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            shutil.rmtree(self.profile, ignore_errors=True)
