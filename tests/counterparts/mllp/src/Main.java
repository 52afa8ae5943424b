import ca.uhn.hl7v2.DefaultHapiContext;
import ca.uhn.hl7v2.HapiContext;
import ca.uhn.hl7v2.app.Connection;
import ca.uhn.hl7v2.model.AbstractMessage;
import ca.uhn.hl7v2.model.Message;
import ca.uhn.hl7v2.model.v25.datatype.CE;
import ca.uhn.hl7v2.model.v25.datatype.CX;
import ca.uhn.hl7v2.model.v25.datatype.NM;
import ca.uhn.hl7v2.model.v25.datatype.SN;
import ca.uhn.hl7v2.model.v25.datatype.ST;
import ca.uhn.hl7v2.model.v25.message.ACK;
import ca.uhn.hl7v2.model.v25.message.ADT_A01;
import ca.uhn.hl7v2.model.v25.message.ADT_A05;
import ca.uhn.hl7v2.model.v25.message.ADT_A24;
import ca.uhn.hl7v2.model.v25.message.ADT_A37;
import ca.uhn.hl7v2.model.v25.message.ADT_A39;
import ca.uhn.hl7v2.model.v25.message.ORU_R01;
import ca.uhn.hl7v2.model.v25.segment.MSH;
import ca.uhn.hl7v2.model.v25.segment.OBR;
import ca.uhn.hl7v2.model.v25.segment.OBX;
import ca.uhn.hl7v2.model.v25.segment.PID;
import ca.uhn.hl7v2.parser.Parser;
import ca.uhn.hl7v2.util.idgenerator.InMemoryIDGenerator;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.time.format.DateTimeFormatter;
import java.util.List;

/**
 * A sender that is not ours: HAPI HL7v2 builds the messages, sends them by its own MLLP client and reads the answers by its
 * own parser.
 *   --port N      where the gateway listens
 *   --results N   results beside the story of one patient (100)
 *   --charts F    sends these charts in place of the story. Lines of tabulators: "P", number, sex, birth, death (empty where
 *                 alive); or "R", patient, order, code, its system, value type, value (code^text^system where it is coded),
 *                 unit, time of the specimen, time of issue; all as HL7 v2 writes them
 * Prints one line for each message of the story (event, MSA-1, and what ERR says), then how many results were acknowledged.
 * Ends with 1 where an answer is not the one that is owed.
 */
public final class Main {
  private static int port;
  private static Parser parser;
  private static int count = 0;
  private static boolean isWrong = false;
  private static final LocalDate TODAY = LocalDate.now();

  private Main() {}

  private static String day(int daysAgo, String clock) {
    return TODAY.minusDays(daysAgo).format(DateTimeFormatter.BASIC_ISO_DATE) + clock;
  }

  /** The header; the library has set MSH-1, 2, 9, 11 and 12. Each message is a minute newer than the one before. */
  private static void header(MSH msh) throws Exception {
    count += 1;
    msh.getSendingApplication().getNamespaceID().setValue("HAPI");
    msh.getSendingFacility().getNamespaceID().setValue("DEMO");
    msh.getReceivingApplication().getNamespaceID().setValue("NEPHROGATE");
    msh.getDateTimeOfMessage().getTime().setValue(day(1, String.format("%02d%02d00+0800", 6 + count / 60 % 12, count % 60)));
    msh.getMessageControlID().setValue("HAPI-" + count);
    msh.getCharacterSet(0).setValue("UNICODE UTF-8");
  }

  /** Its ids are counted in memory; the library would keep a file in the working directory. */
  private static void begin(AbstractMessage message, String code, String event) throws Exception {
    message.setParser(parser);
    message.initQuickstart(code, event, "P");
  }

  private static void identifier(CX id, String number) throws Exception {
    id.getIDNumber().setValue(number);
    id.getAssigningAuthority().getNamespaceID().setValue("DEMO");
    id.getIdentifierTypeCode().setValue("MR");
  }

  private static void patient(PID pid, String number) throws Exception {
    identifier(pid.getPatientIdentifierList(0), number);
    pid.getPatientName(0).getFamilyName().getSurname().setValue("O'Müller & Söhne|^~\\");
    pid.getDateTimeOfBirth().getTime().setValue("19660101");
    pid.getAdministrativeSex().setValue("F");
  }

  private static ORU_R01 order(String patient, String number, String at) throws Exception {
    ORU_R01 oru = new ORU_R01();
    begin(oru, "ORU", "R01");
    header(oru.getMSH());
    patient(oru.getPATIENT_RESULT().getPATIENT().getPID(), patient);
    OBR obr = oru.getPATIENT_RESULT().getORDER_OBSERVATION().getOBR();
    obr.getFillerOrderNumber().getEntityIdentifier().setValue(number);
    obr.getUniversalServiceIdentifier().getIdentifier().setValue("RENAL");
    obr.getObservationDateTime().getTime().setValue(at);
    obr.getResultStatus().setValue("F");
    return oru;
  }

  private static OBX result(ORU_R01 oru, int index, String type, String code, String system, String unit, String status) throws Exception {
    OBX obx = oru.getPATIENT_RESULT().getORDER_OBSERVATION().getOBSERVATION(index).getOBX();
    obx.getSetIDOBX().setValue(String.valueOf(index + 1));
    obx.getValueType().setValue(type);
    obx.getObservationIdentifier().getIdentifier().setValue(code);
    obx.getObservationIdentifier().getNameOfCodingSystem().setValue(system);
    obx.getUnits().getIdentifier().setValue(unit);
    if (unit != null) obx.getUnits().getNameOfCodingSystem().setValue("UCUM");
    obx.getObservationResultStatus().setValue(status);
    return obx;
  }

  private static void number(ORU_R01 oru, OBX obx, String value) throws Exception {
    NM number = new NM(oru);
    number.setValue(value);
    obx.getObservationValue(0).setData(number);
  }

  private static ORU_R01 creatinine(String patient, String order, String at, String status, String value) throws Exception {
    ORU_R01 oru = order(patient, order, at);
    OBX obx = result(oru, 0, "NM", "2160-0", "LN", "mg/dL", status);
    obx.getReferencesRange().setValue("0.6-1.2");
    number(oru, obx, value);
    return oru;
  }

  private static Message adt(String event, String patient) throws Exception {
    boolean isPerson = event.equals("A28") || event.equals("A31");
    if (isPerson) {
      ADT_A05 adt = new ADT_A05();
      begin(adt, "ADT", event);
      header(adt.getMSH());
      patient(adt.getPID(), patient);
      return adt;
    }
    ADT_A01 adt = new ADT_A01();
    begin(adt, "ADT", event);
    header(adt.getMSH());
    patient(adt.getPID(), patient);
    adt.getPV1().getPatientClass().setValue("I");
    adt.getPV1().getVisitNumber().getIDNumber().setValue("V-" + patient);
    adt.getEVN().getRecordedDateTime().getTime().setValue(day(1, "060000"));
    adt.getPV1().getAdmitDateTime().getTime().setValue(day(20, "090000"));
    if (event.equals("A03")) adt.getPV1().getDischargeDateTime(0).getTime().setValue(day(14, "110000"));
    return adt;
  }

  /** One line of a file of charts as a message. */
  private static Message ofCharts(String[] line) throws Exception {
    if (line[0].equals("P")) {
      ADT_A05 adt = new ADT_A05();
      begin(adt, "ADT", "A28");
      header(adt.getMSH());
      PID pid = adt.getPID();
      identifier(pid.getPatientIdentifierList(0), line[1]);
      pid.getAdministrativeSex().setValue(line[2]);
      pid.getDateTimeOfBirth().getTime().setValue(line[3]);
      if (!line[4].isEmpty()) {
        pid.getPatientDeathDateAndTime().getTime().setValue(line[4]);
        pid.getPatientDeathIndicator().setValue("Y");
      }
      return adt;
    }
    ORU_R01 oru = new ORU_R01();
    begin(oru, "ORU", "R01");
    header(oru.getMSH());
    identifier(oru.getPATIENT_RESULT().getPATIENT().getPID().getPatientIdentifierList(0), line[1]);
    OBR obr = oru.getPATIENT_RESULT().getORDER_OBSERVATION().getOBR();
    obr.getFillerOrderNumber().getEntityIdentifier().setValue(line[2]);
    obr.getObservationDateTime().getTime().setValue(line[8]);
    obr.getResultsRptStatusChngDateTime().getTime().setValue(line[9]);
    obr.getResultStatus().setValue("F");
    OBX obx = result(oru, 0, line[5], line[3], line[4], line[7].isEmpty() ? null : line[7], "F");
    if (line[5].equals("NM")) {
      number(oru, obx, line[6]);
    } else {
      String[] parts = line[6].split("\\^");
      CE coded = new CE(oru);
      coded.getIdentifier().setValue(parts[0]);
      coded.getText().setValue(parts[1]);
      coded.getNameOfCodingSystem().setValue(parts[2]);
      obx.getObservationValue(0).setData(coded);
    }
    return oru;
  }

  private static void sendCharts(Connection connection, Path file) throws Exception {
    List<String> lines = Files.readAllLines(file);
    int acknowledged = 0;
    for (String line : lines) {
      Message answer = connection.getInitiator().sendAndReceive(ofCharts(line.split("\t", -1)));
      acknowledged += ((ACK) answer).getMSA().getAcknowledgmentCode().getValue().equals("AA") ? 1 : 0;
    }
    System.out.println("acknowledged " + acknowledged + " of " + lines.size());
    if (acknowledged != lines.size()) System.exit(1);
  }

  private static void tell(Connection connection, String what, String owed, Message message) throws Exception {
    Message answer = connection.getInitiator().sendAndReceive(message);
    ACK ack = (ACK) answer;
    String code = ack.getMSA().getAcknowledgmentCode().getValue();
    String of = ack.getMSA().getMessageControlID().getValue();
    String error = ack.getERR().getApplicationErrorCode().getIdentifier().getValue();
    String said = code + (error == null ? "" : " " + error);
    System.out.println(what + ": " + said);
    if (!said.equals(owed) || !of.equals("HAPI-" + count)) {
      System.out.println("  owed " + owed + " to HAPI-" + count + ", answered to " + of);
      isWrong = true;
    }
  }

  public static void main(String[] arguments) throws Exception {
    int results = 100;
    Path charts = null;
    for (int index = 0; index + 1 < arguments.length; index += 2) {
      switch (arguments[index]) {
        case "--port" -> port = Integer.parseInt(arguments[index + 1]);
        case "--results" -> results = Integer.parseInt(arguments[index + 1]);
        case "--charts" -> charts = Path.of(arguments[index + 1]);
        default -> throw new IllegalArgumentException(arguments[index]);
      }
    }
    try (HapiContext context = new DefaultHapiContext()) {
      context.getParserConfiguration().setIdGenerator(new InMemoryIDGenerator());
      parser = context.getPipeParser();
      Connection lab = context.newClient("127.0.0.1", port, false);
      lab.getInitiator().setTimeout(20, java.util.concurrent.TimeUnit.SECONDS);
      if (charts != null) {
        sendCharts(lab, charts);
        return;
      }
      tell(lab, "registered", "AA", adt("A28", "hapi1"));
      tell(lab, "registered under an old number", "AA", adt("A28", "hapi0"));
      tell(lab, "admitted", "AA", adt("A01", "hapi1"));
      tell(lab, "discharged", "AA", adt("A03", "hapi1"));
      tell(lab, "old creatinine", "AA", creatinine("hapi0", "H-0", day(120, "080000"), "F", "1.90"));
      tell(lab, "creatinine", "AA", creatinine("hapi1", "H-1", day(3, "080000"), "F", "1.80"));
      tell(lab, "corrected", "AA", creatinine("hapi1", "H-1", day(3, "081500"), "C", "1.85"));

      ORU_R01 panel = order("hapi1", "H-2", day(2, "080000"));
      SN below = new SN(panel);
      below.getComparator().setValue("<");
      below.getNum1().setValue("3");
      result(panel, 0, "SN", "9318-7", "LN", "mg/g", "F").getObservationValue(0).setData(below);
      CE grade = new CE(panel);
      grade.getIdentifier().setValue("260347006");
      grade.getNameOfCodingSystem().setValue("SCT");
      result(panel, 1, "CE", "20454-5", "LN", null, "F").getObservationValue(0).setData(grade);
      ST text = new ST(panel);
      text.setValue("clear & yellow | no ^ sediment ~ \\ done");
      result(panel, 2, "ST", "5778-6", "LN", null, "F").getObservationValue(0).setData(text);
      tell(lab, "panel", "AA", panel);

      ADT_A39 merge = new ADT_A39();
      begin(merge, "ADT", "A40");
      header(merge.getMSH());
      patient(merge.getPATIENT().getPID(), "hapi1");
      identifier(merge.getPATIENT().getMRG().getPriorPatientIdentifierList(0), "hapi0");
      tell(lab, "merged", "AA", merge);

      ADT_A24 link = new ADT_A24();
      begin(link, "ADT", "A24");
      header(link.getMSH());
      patient(link.getPID(), "hapi2");
      patient(link.getPID2(), "hapi1");
      tell(lab, "linked", "AA", link);
      ADT_A37 unlink = new ADT_A37();
      begin(unlink, "ADT", "A37");
      header(unlink.getMSH());
      patient(unlink.getPID(), "hapi2");
      patient(unlink.getPID2(), "hapi1");
      tell(lab, "unlinked", "AA", unlink);

      ORU_R01 foreign = creatinine("hapi1", "H-3", day(1, "080000"), "F", "1.80");
      foreign.getPATIENT_RESULT().getPATIENT().getPID().getPatientIdentifierList(0).getAssigningAuthority().getNamespaceID().setValue("ELSEWHERE");
      tell(lab, "of another authority", "AA identity-missing", foreign);

      int acknowledged = 0;
      for (int index = 0; index < results; index++) {
        Message answer = lab.getInitiator().sendAndReceive(creatinine("hapi" + (10 + index % 20), "R-" + index, day(5, "080000"), "F", "1.70"));
        acknowledged += ((ACK) answer).getMSA().getAcknowledgmentCode().getValue().equals("AA") ? 1 : 0;
      }
      System.out.println("acknowledged " + acknowledged + " of " + results);
      lab.close();
      if (isWrong || acknowledged != results) System.exit(1);
    }
  }
}
