// What an SDK that is told to come back later does, as seen by the fetch that it is given.

import assert from "node:assert/strict";

export class Attempts {
  // [when, status, Retry-After] of each answer.
  all = [];

  fetch = async (url, options) => {
    const response = await fetch(url, options);
    this.all.push([Date.now(), response.status, response.headers.get("retry-after")]);
    return response;
  };

  // It was refused so, came back no earlier than it was told, and had its answer in the end.
  assertWaited(status) {
    assert.equal(this.all[0][1], status);
    assert.equal(this.all.at(-1)[1], 200);
    const told = Number(this.all[0][2]);
    assert(told >= 1 && this.all[1][0] - this.all[0][0] >= told * 1000, "it came back before Retry-After");
  }
}
