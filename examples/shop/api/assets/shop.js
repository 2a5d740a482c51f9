// SPDX-License-Identifier: Apache-2.0
// What scripts make smoother; everything works without them.
"use strict";

const PHOTO_MAX = 8 << 20;

// A thumb is sent without leaving the page.
for (const form of document.querySelectorAll("form.thumbs")) {
    form.addEventListener("submit", async (event) => {
        event.preventDefault();
        const body = new URLSearchParams(new FormData(form));
        body.set("up", event.submitter.value);
        const reply = await fetch("/api/thumb", { method: "POST", body }).catch(() => null);
        const page = reply && reply.status < 500 ? await reply.json().catch(() => null) : null;
        form.querySelector("span").textContent = page ? page.note : "That did not get through. Once more?";
        for (const button of form.querySelectorAll("button")) {
            button.classList.toggle("chosen", page !== null && reply.ok && button === event.submitter);
        }
    });
}

// A photo is sent as soon as it is chosen, or dropped anywhere.
const photo = document.querySelector("form.photo");
const file = photo.querySelector("input");
function send() {
    if (file.files.length === 0) {
        return;
    }
    if (file.files[0].size > PHOTO_MAX) {
        file.setCustomValidity("At most 8 MB, please.");
        file.reportValidity();
        return;
    }
    photo.classList.add("busy");
    photo.requestSubmit();
}
file.addEventListener("change", send);
addEventListener("pageshow", () => photo.classList.remove("busy"));
addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) {
        document.body.classList.remove("dropping");
    }
});
addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files.length > 0) {
        file.files = event.dataTransfer.files;
        send();
    }
});
