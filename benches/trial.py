#!/usr/bin/env python3
"""Makes an invented trial of many subjects, as one hospital's NDJSON files. Usage: benches/trial.py OUT [SUBJECTS] [SEED]

Each subject of OUT/north-hospital has a Patient, a ResearchSubject in two versions, one infusion, creatinine and UPCR at
every visit (some missing, some corrected), an earlier creatinine, and every third subject an adverse event.
"""
import datetime, json, os, random, sys

out, count, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10_000, int(sys.argv[3]) if len(sys.argv) > 3 else 42
random.seed(seed)
folder = os.path.join(out, "north-hospital")
os.makedirs(folder, exist_ok=True)
ARMS = [("Cohort 1 (8 mL)", 8), ("Cohort 2 (24 mL)", 24), ("Cohort 3 (40 mL)", 40)]
WEEKS = [-1, 2, 4, 12, 24, 36, 48]
NCIT = "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl"
IG = "http://hl7.org/fhir/uv/ae-research-backport-ig/StructureDefinition/"
PRODUCT = {"coding": [{"system": "https://fhir.north-hospital.example.org/pharmacy", "code": "IMP-0417"}]}
FIRST = datetime.date(2022, 1, 3)
files = {name: open(os.path.join(folder, name + ".ndjson"), "w") for name in ("Patient", "ResearchSubject", "MedicationAdministration", "Observation", "AdverseEvent")}


def write(resource_type, number, version, when, **fields):
    resource = {"resourceType": resource_type, "id": number, "meta": {"versionId": str(version), "lastUpdated": when}}
    files[resource_type].write(json.dumps({**resource, **fields}, separators=(",", ":")) + "\n")


def quantity(value, unit):
    return {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


def concept(system, code):
    return {"coding": [{"system": system, "code": code}]}


for index in range(count):
    patient, arm = f"{100000 + index}", ARMS[index % 3]
    subject = {"reference": f"Patient/{patient}"}
    dosed = FIRST + datetime.timedelta(days=index % 365)
    at = lambda days, hour=9: f"{dosed + datetime.timedelta(days=days)}T{hour:02}:00:00+08:00"
    is_female, age = random.random() < 0.5, random.randint(35, 75)
    write("Patient", patient, 1, at(-60), gender="female" if is_female else "male", birthDate=f"{dosed.year - age}-{random.randint(1, 12):02}-11")
    in_trial = {"period": {"start": str(dosed - datetime.timedelta(days=3))}, "study": {"reference": "ResearchStudy/adsc-ckd"}, "individual": subject, "assignedArm": arm[0]}
    write("ResearchSubject", f"rs{index}", 1, at(-3), status="on-study", **in_trial)
    write("ResearchSubject", f"rs{index}", 2, at(0, 17), status="follow-up", actualArm=arm[0], **in_trial)
    write("MedicationAdministration", f"ma{index}", 1, at(0, 12), status="completed", medicationCodeableConcept=PRODUCT, subject=subject,
          effectivePeriod={"start": at(0, 10), "end": at(0, 11)}, dosage={"dose": quantity(arm[1], "mL")})
    level = random.uniform(1.3, 2.6) if is_female else random.uniform(1.8, 3.4)
    protein = random.uniform(200, 3000)
    for place, week in enumerate([-20] + WEEKS):
        if week > 0 and random.random() < 0.04:
            continue
        day = week * 7 + (random.randint(-2, 2) if week > 0 else 0)
        laboratory = {"category": [concept("http://terminology.hl7.org/CodeSystem/observation-category", "laboratory")], "subject": subject, "effectiveDateTime": at(day), "issued": at(day, 13)}
        creatinine = round(level * random.uniform(0.85, 1.15), 2)
        versions = 2 if random.random() < 0.02 else 1
        for version in range(1, versions + 1):
            write("Observation", f"c{index}-{place}", version, at(day, 12 + version), status="final" if version == 1 else "corrected", code=concept("http://loinc.org", "2160-0"),
                  valueQuantity=quantity(round(creatinine + (version - 1) * 0.1, 2), "mg/dL"), **laboratory)
        if week > -20:
            write("Observation", f"u{index}-{place}", 1, at(day, 13), status="final", code=concept("http://loinc.org", "2890-2"),
                  valueQuantity=quantity(round(protein * random.uniform(0.8, 1.2)), "mg/g"), **laboratory)
    if index % 3 == 0:
        is_serious = random.random() < 0.1
        extension = [
            {"url": IG + "ae-grade", "valueCodeableConcept": concept(NCIT, random.choice(["C41338", "C41339", "C41340"]))},
            {"url": IG + "suspect-entity", "extension": [{"url": "instance", "valueCodeableConcept": PRODUCT}, {"url": "causality", "extension": [
                {"url": "entityRelatedness", "valueCodeableConcept": concept(NCIT, random.choice(["C53256", "C53257", "C53258", "C53260"]))}]}]},
            {"url": IG + "expected-in-research-study", "valueBoolean": random.random() < 0.5},
            {"url": "https://fhir.north-hospital.example.org/r4/StructureDefinition/dose-limiting-toxicity", "valueBoolean": random.random() < 0.02},
        ]
        if is_serious:
            extension.append({"url": IG + "seriousness-criteria", "extension": [{"url": "criterionCode", "valueCodeableConcept": concept(NCIT, "C83052")}, {"url": "criterionPresent", "valueBoolean": True}]})
        day = random.randint(0, 300)
        write("AdverseEvent", f"ae{index}", 1, at(day, 15), extension=extension, modifierExtension=[{"url": IG + "status", "valueCode": "completed"}], actuality="actual",
              event={"text": random.choice(["Headache", "Fever", "Oedema", "Hypotension", "Proteinuria", "Rash"])}, subject=subject, date=at(day), recordedDate=at(day, 14),
              seriousness=concept("http://terminology.hl7.org/CodeSystem/adverse-event-seriousness", "serious" if is_serious else "non-serious"),
              outcome={"coding": [{"system": "http://terminology.hl7.org/CodeSystem/adverse-event-outcome", "code": "resolved"}, {"system": NCIT, "code": "C49498"}]},
              study=[{"reference": "ResearchStudy/adsc-ckd"}])
for file in files.values():
    file.close()
