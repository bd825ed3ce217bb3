// An element that knows whether it is in the page: what costs something runs only while it is.

const NAME = "modality-forcing-widget";
const GRACE_MS = 1000; // an element that is moved, or whose node is out of sight for a moment, keeps what it has

// start() and stop() are called in turns, start only while wanted(). Returns {element, wake(), release(), check()}: release
// stops at once, wake starts again what was released while the element stayed in the page, check does what wanted() says.
// inPage: a set that holds what is returned while the element is in the page.
export function livingElement({ start, stop, wanted, inPage }, ...children) {
    const element = document.createElement(defined());
    let running = false;
    let leaving = 0;

    function wake() {
        clearTimeout(leaving);
        if (running || !element.isConnected || !wanted()) return;
        running = true;
        start();
    }

    function release() {
        clearTimeout(leaving);
        if (!running) return;
        running = false;
        stop();
    }

    const own = { element, wake, release, check: () => (wanted() ? wake() : release()) };
    element.whenConnected = () => {
        inPage.add(own);
        wake();
    };
    element.whenDisconnected = () => {
        inPage.delete(own);
        clearTimeout(leaving);
        leaving = setTimeout(() => element.isConnected || release(), GRACE_MS);
    };
    element.append(...children);
    return own;
}

function defined() {
    if (!customElements.get(NAME)) {
        customElements.define(NAME, class extends HTMLElement {
            connectedCallback() {
                this.whenConnected?.();
            }

            disconnectedCallback() {
                this.whenDisconnected?.();
            }
        });
    }
    return NAME;
}
