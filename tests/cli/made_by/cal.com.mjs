// Makes an API key with createApiKeyHandler of Cal.com's server. Writes the row that it gives to the
// database to cal.com.csv, and prints the key.
//
// Two things are stood in for. Of the packages that the server asks for, uuid is installed; each
// other is `nothing`. The client of the database is `database`, which keeps the row.

import { writeFileSync } from "node:fs";
import Module, { createRequire } from "node:module";
import { join } from "node:path";

const nothing = new Proxy(function () {}, {
  get(target, name) {
    if (name === "prototype") {
      return target.prototype;
    }
    return name === Symbol.toPrimitive ? () => "" : nothing;
  },
  apply: () => nothing,
  construct: () => nothing,
});
const load = Module._load;
Module._load = (name, ...rest) => {
  try {
    return load(name, ...rest);
  } catch (error) {
    if (error.code === "MODULE_NOT_FOUND" && !name.startsWith(".")) {
      return nothing;
    }
    throw error;
  }
};

const kept = [];
const database = {
  $extends: () => database,
  $use: () => {},
  apiKey: { create: async ({ data }) => kept.push(data) },
};
globalThis.baseClient = database;

// The columns of the table ApiKey in the Prisma schema of the package, in its order.
const EMPTY = {
  id: null,
  userId: null,
  teamId: null,
  note: null,
  createdAt: new Date(),
  expiresAt: null,
  lastUsedAt: null,
  hashedKey: null,
  appId: null,
};

function cell(value) {
  return value instanceof Date ? value.toISOString().slice(0, -1).replace("T", " ") : (value ?? "");
}

const require = createRequire(join(process.cwd(), "package.json"));
const { createApiKeyHandler } = require("@calcom/platform-libraries");
const key = await createApiKeyHandler({
  ctx: { user: { id: 42 } },
  input: { note: "the shop", neverExpires: true },
});
const row = { ...EMPTY, ...kept[0] };
const lines = [Object.keys(row).join(","), Object.values(row).map(cell).join(",")];
writeFileSync("cal.com.csv", `${lines.join("\n")}\n`);
console.log(key);
process.exit();
