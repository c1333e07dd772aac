"use strict";
// Opened from a disk, a page may not start a worker, so the search would find nothing. There, a hidden frame takes the
// worker's place: it loads the same script, and messages are handed over as events.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow, script = inside.document.createElement("script");
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", {data}));
      inside.importScripts = (...addresses) => addresses.forEach(one => {
        const further = inside.document.createElement("script");
        further.src = one;
        further.async = false;
        inside.document.body.append(further);
      });
      this.waiting = [];
      script.onload = () => { this.ready = true; this.waiting.splice(0).forEach(data => this.postMessage(data)); };
      script.onerror = () => this.dispatchEvent(new Event("error"));
      script.src = address;
      inside.document.body.append(script);
      this.inside = inside;
    }
    postMessage(data) {
      if (this.ready) this.inside.dispatchEvent(new this.inside.MessageEvent("message", {data}));
      else this.waiting.push(data);
    }
    terminate() { this.inside.frameElement.remove(); }
  };
}
