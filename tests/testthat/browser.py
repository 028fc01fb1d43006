"""Opens a page in headless Chromium and does steps in it, through the DevTools protocol over a pipe. Needs nothing but Python.

python3 browser.py BROWSER STEPS DOWNLOADS     STEPS: a JSON file, a list of steps; prints a JSON list with what they returned, then
                                               {"console": errors and warnings, "requests": addresses, "seconds": that the page computed in its main thread}
Steps: {"size": [width, height], "dark": bool, "touch": bool}   {"open": address}   {"js": expression, awaited}   {"key": name}
       {"click": [x, y]}   {"drag": [[x, y], ...]}   {"text": typed}   {"wait": expression, until it is true}   {"shot": file}
       {"saved": ending, until a file with it was downloaded}
"""
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

browser, steps, downloads = sys.argv[1:4]
profile = tempfile.mkdtemp(prefix="browser-")
to_read, to_write = os.pipe()  # what we write, what it reads
from_read, from_write = os.pipe()


def inherit():
    os.dup2(to_read, 13)
    os.dup2(from_write, 14)
    os.dup2(13, 3)
    os.dup2(14, 4)


process = subprocess.Popen(
    [browser, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--user-data-dir=" + profile,
     "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync",
     "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "about:blank"],
    preexec_fn=inherit, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
os.close(to_read)
os.close(from_write)
incoming = os.fdopen(from_read, "rb", buffering=0)
number = 0
left = b""
console, requests = [], []
shortcuts = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Home": 36, "End": 35}


def receive():
    global left
    while b"\0" not in left:
        more = incoming.read(1 << 16)
        if not more:
            raise SystemExit("the browser ended")
        left += more
    message, left = left.split(b"\0", 1)
    message = json.loads(message)
    method, p = message.get("method"), message.get("params", {})
    if method == "Runtime.exceptionThrown":
        details = p["exceptionDetails"]
        console.append(details.get("exception", {}).get("description") or details["text"])
    elif method == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
        console.append(" ".join(str(a.get("value", a.get("description"))) for a in p["args"]))
    elif method == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
        console.append(p["entry"]["text"])
    elif method == "Network.requestWillBeSent":
        requests.append(p["request"]["url"][:200])
    return message


def call(method, session=None, **parameters):
    global number
    number += 1
    message = {"id": number, "method": method, "params": parameters}
    if session:
        message["sessionId"] = session
    os.write(to_write, json.dumps(message).encode() + b"\0")
    while True:
        answer = receive()
        if answer.get("id") == number:
            if "error" in answer:
                raise SystemExit("%s: %s" % (method, answer["error"]))
            return answer["result"]


def evaluate(expression):
    result = call("Runtime.evaluate", page, expression=expression, awaitPromise=True, returnByValue=True)
    if "exceptionDetails" in result:
        raise SystemExit(expression + ": " + str(result["exceptionDetails"].get("exception", {}).get("description")))
    return result["result"].get("value")


def mouse(kind, at, **more):
    call("Input.dispatchMouseEvent", page, type=kind, x=at[0], y=at[1], **more)


def do(step):
    if "size" in step:
        width, height = step["size"]
        touch = bool(step.get("touch"))
        call("Emulation.setDeviceMetricsOverride", page, width=width, height=height, deviceScaleFactor=step.get("scale", 1), mobile=touch)
        call("Emulation.setTouchEmulationEnabled", page, enabled=touch)
        call("Emulation.setEmulatedMedia", page, features=[{"name": "prefers-color-scheme", "value": "dark" if step.get("dark") else "light"}])
    if "open" in step:
        start = time.time()
        call("Page.navigate", page, url=step["open"])
        wait("document.documentElement?.dataset.ready || document.readyState === 'complete' && !document.getElementById('description')")
        return time.time() - start
    if "js" in step:
        return evaluate(step["js"])
    if "wait" in step:
        return wait(step["wait"])
    if "saved" in step:
        return until(lambda: any(name.endswith(step["saved"]) for name in os.listdir(downloads)), step["saved"])
    if "key" in step:
        key = step["key"]
        code = {"windowsVirtualKeyCode": shortcuts[key]} if key in shortcuts else {"text": key}
        call("Input.dispatchKeyEvent", page, type="keyDown", key=key, **code)
        call("Input.dispatchKeyEvent", page, type="keyUp", key=key)
    if "text" in step:
        call("Input.insertText", page, text=step["text"])
    if "click" in step:
        mouse("mousePressed", step["click"], button="left", clickCount=1)
        mouse("mouseReleased", step["click"], button="left", clickCount=1)
    if "drag" in step:
        path = step["drag"]
        mouse("mousePressed", path[0], button="left", clickCount=1)
        for at in path[1:]:
            mouse("mouseMoved", at, button="left", buttons=1)
        mouse("mouseReleased", path[-1], button="left", clickCount=1)
    if "shot" in step:
        time.sleep(0.25)  # a frame or two
        shot = call("Page.captureScreenshot", page, format="png", captureBeyondViewport=bool(step.get("whole")))
        with open(step["shot"], "wb") as out:
            out.write(base64.b64decode(shot["data"]))
    return None


def wait(condition):
    return until(lambda: evaluate("(async () => !!await (%s))()" % condition), condition)


def until(true, what, seconds=60):
    end = time.time() + seconds
    while not true():
        if time.time() > end:
            raise SystemExit("waited in vain for " + what)
        time.sleep(0.02)
    return True


try:
    call("Browser.setDownloadBehavior", behavior="allow", downloadPath=downloads)
    target = call("Target.createTarget", url="about:blank")["targetId"]
    page = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Runtime", "Log", "Network", "Page"):
        call(domain + ".enable", page)
    call("Performance.enable", page, timeDomain="threadTicks")  # of the processor, whatever else it does
    with open(steps) as file:
        results = [do(step) for step in json.load(file)]
    metrics = {m["name"]: m["value"] for m in call("Performance.getMetrics", page)["metrics"]}
    print(json.dumps(results + [{"console": console, "requests": requests, "seconds": metrics["TaskDuration"]}]))
    call("Browser.close")
finally:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
    shutil.rmtree(profile, ignore_errors=True)
