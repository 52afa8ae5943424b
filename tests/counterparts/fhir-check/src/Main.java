import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.DefaultProfileValidationSupport;
import ca.uhn.fhir.validation.FhirValidator;
import ca.uhn.fhir.validation.ResultSeverityEnum;
import ca.uhn.fhir.validation.SingleValidationMessage;
import ca.uhn.fhir.validation.ValidationOptions;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.hl7.fhir.common.hapi.validation.support.CommonCodeSystemsTerminologyService;
import org.hl7.fhir.common.hapi.validation.support.InMemoryTerminologyServerValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.PrePopulatedValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.SnapshotGeneratingValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.ValidationSupportChain;
import org.hl7.fhir.common.hapi.validation.validator.FhirInstanceValidator;

/**
 * HL7's instance validator for FHIR R4 over files, without a network: the judge of what we write.
 *
 * <p>Arguments, in any number and order: --profiles DIR takes the StructureDefinitions, ValueSets and CodeSystems of a
 * folder; --as CANONICAL holds the files after it to that profile too, and --as base ends that; --strict makes a warning
 * a fault; FILE is JSON, or NDJSON with one resource a line. Prints a line for each fault and exits with 1 when there was
 * one. Codes that need a terminology server (LOINC, SNOMED CT) are not checked.
 */
public final class Main {
  private Main() {}

  public static void main(String[] arguments) throws Exception {
    List<String> words = List.of(arguments);
    ResultSeverityEnum from = words.contains("--strict") ? ResultSeverityEnum.WARNING : ResultSeverityEnum.ERROR;
    FhirValidator validator = validator(words);
    ValidationOptions profile = ValidationOptions.empty();
    int resources = 0;
    int faults = 0;
    for (int at = 0; at < words.size(); at++) {
      String word = words.get(at);
      if (word.equals("--profiles")) {
        at++;
      } else if (word.equals("--as")) {
        String canonical = words.get(++at);
        profile = canonical.equals("base") ? ValidationOptions.empty() : new ValidationOptions().addProfile(canonical);
      } else if (!word.startsWith("--")) {
        String text = Files.readString(Path.of(word));
        for (String resource : word.endsWith(".ndjson") ? text.split("\n") : new String[] {text}) {
          if (resource.isBlank()) continue;
          resources++;
          for (SingleValidationMessage message : validator.validateWithResult(resource, profile).getMessages()) {
            if (message.getSeverity().ordinal() < from.ordinal()) continue;
            faults++;
            System.out.println(word + ", resource " + resources + ", " + message.getSeverity().getCode() + " at "
                + message.getLocationString() + ": " + message.getMessage());
          }
        }
      }
    }
    System.out.println(resources + " resources, " + faults + " faults");
    System.exit(faults == 0 && 0 < resources ? 0 : 1);
  }

  private static FhirValidator validator(List<String> words) throws IOException {
    FhirContext r4 = FhirContext.forR4();
    PrePopulatedValidationSupport own = new PrePopulatedValidationSupport(r4);
    for (int at = 0; at + 1 < words.size(); at++) {
      if (!words.get(at).equals("--profiles")) continue;
      try (Stream<Path> files = Files.list(Path.of(words.get(at + 1)))) {
        for (Path file : files.filter(Main::isDefinition).sorted().toList()) {
          own.addResource(r4.newJsonParser().parseResource(Files.readString(file)));
        }
      }
    }
    ValidationSupportChain definitions = new ValidationSupportChain(
        new DefaultProfileValidationSupport(r4),
        own,
        new SnapshotGeneratingValidationSupport(r4),
        new CommonCodeSystemsTerminologyService(r4),
        new InMemoryTerminologyServerValidationSupport(r4));
    return r4.newValidator().registerValidatorModule(new FhirInstanceValidator(definitions));
  }

  /** What the validator looks up; the other conformance resources of the folder are for people and clients. */
  private static boolean isDefinition(Path file) {
    String name = file.getFileName().toString();
    return name.endsWith(".json")
        && Stream.of("StructureDefinition-", "ValueSet-", "CodeSystem-").anyMatch(name::startsWith);
  }
}
