"""Base R4 by fhirkit-rs, which shares no code with HL7's validator: fhirkit.py FILE.ndjson prints a line for each fault,
then how many there were, and exits with 1 when there was one."""

import pathlib
import sys

# This file has the package's name: without this it would import itself.
sys.path.pop(0)

import fhirkit

lines = [line for line in pathlib.Path(sys.argv[1]).read_text().split("\n") if line.strip()]
faults = 0
for number, line in enumerate(lines, 1):
    try:
        issues = [str(issue) for issue in fhirkit.validate(line) if issue.severity == "error"]
    except fhirkit.ParseError as error:
        issues = [str(error)]
    for issue in issues:
        faults += 1
        print(f"resource {number}, {issue}")
print(f"{len(lines)} resources, {faults} faults")
sys.exit(0 if faults == 0 and lines else 1)
