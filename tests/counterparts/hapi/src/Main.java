import ca.uhn.fhir.batch2.jobs.config.Batch2JobsConfig;
import ca.uhn.fhir.batch2.jobs.export.BulkDataExportProvider;
import ca.uhn.fhir.batch2.maintenance.JobMaintenanceServiceImpl;
import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.config.ThreadPoolFactoryConfig;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.batch2.JpaBatch2Config;
import ca.uhn.fhir.jpa.config.HapiJpaConfig;
import ca.uhn.fhir.jpa.config.r4.JpaR4Config;
import ca.uhn.fhir.jpa.config.util.HapiEntityManagerFactoryUtil;
import ca.uhn.fhir.jpa.model.config.PartitionSettings;
import ca.uhn.fhir.jpa.model.config.SubscriptionSettings;
import ca.uhn.fhir.jpa.model.dialect.HapiFhirH2Dialect;
import ca.uhn.fhir.jpa.provider.IJpaSystemProvider;
import ca.uhn.fhir.jpa.provider.JpaCapabilityStatementProvider;
import ca.uhn.fhir.jpa.search.DatabaseBackedPagingProvider;
import ca.uhn.fhir.jpa.subscription.channel.config.SubscriptionChannelConfig;
import ca.uhn.fhir.jpa.subscription.match.config.SubscriptionProcessorConfig;
import ca.uhn.fhir.jpa.subscription.match.deliver.email.IEmailSender;
import ca.uhn.fhir.jpa.subscription.submit.config.SubscriptionSubmitterConfig;
import ca.uhn.fhir.rest.api.EncodingEnum;
import ca.uhn.fhir.rest.server.HardcodedServerAddressStrategy;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.interceptor.RequestValidatingInterceptor;
import ca.uhn.fhir.rest.server.provider.ResourceProviderFactory;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import ca.uhn.fhir.validation.IValidatorModule;
import ca.uhn.fhir.validation.ResultSeverityEnum;
import jakarta.persistence.EntityManagerFactory;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.Map;
import javax.sql.DataSource;
import org.apache.commons.dbcp2.BasicDataSource;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.hl7.fhir.dstu2.model.Subscription.SubscriptionChannelType;
import org.springframework.beans.factory.config.BeanPostProcessor;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Import;
import org.springframework.context.annotation.Primary;
import org.springframework.orm.jpa.JpaTransactionManager;
import org.springframework.orm.jpa.LocalContainerEntityManagerFactoryBean;
import org.springframework.transaction.annotation.EnableTransactionManagement;

/**
 * HAPI FHIR's own JPA server (R4) over H2 in memory, on loopback: the EHR that most of the field runs.
 *   --port N     where to listen
 *   --strict     refuse every resource that the HL7 validator faults
 *   --lenient    take references to what is not there
 * It exports ($export), and its jobs take a step each second rather than each minute. Everything else is as HAPI comes. Prints "ready ADDRESS" once it answers; ends when it is killed.
 */
public final class Main {
  private static boolean isLenient;

  private Main() {}

  @Configuration
  @EnableTransactionManagement
  @Import({JpaR4Config.class, HapiJpaConfig.class, JpaBatch2Config.class, Batch2JobsConfig.class, SubscriptionChannelConfig.class,
    SubscriptionSubmitterConfig.class, SubscriptionProcessorConfig.class, ThreadPoolFactoryConfig.class})
  static class Beans {
    @Bean
    JpaStorageSettings storage() {
      JpaStorageSettings storage = new JpaStorageSettings();
      storage.setEnforceReferentialIntegrityOnWrite(!isLenient);
      storage.setEnforceReferentialIntegrityOnDelete(!isLenient);
      storage.setAllowExternalReferences(isLenient);
      return storage;
    }

    @Bean
    PartitionSettings partitions() {
      return new PartitionSettings();
    }

    @Bean
    SubscriptionSettings subscriptions() {
      SubscriptionSettings subscriptions = new SubscriptionSettings();
      subscriptions.addSupportedSubscriptionType(SubscriptionChannelType.RESTHOOK);
      return subscriptions;
    }

    @Bean
    IEmailSender email() {
      return message -> {
        throw new UnsupportedOperationException("this server sends no mail");
      };
    }

    @Bean
    DataSource database() {
      BasicDataSource database = new BasicDataSource();
      database.setUrl("jdbc:h2:mem:hospital;DB_CLOSE_DELAY=-1");
      database.setMaxTotal(16);
      return database;
    }

    @Bean
    LocalContainerEntityManagerFactoryBean entityManagerFactory(
        ConfigurableListableBeanFactory beans, FhirContext r4, JpaStorageSettings storage, DataSource database) {
      LocalContainerEntityManagerFactoryBean entities = HapiEntityManagerFactoryUtil.newEntityManagerFactory(beans, r4, storage);
      entities.setDataSource(database);
      entities.setPersistenceUnitName("hospital");
      entities.setJpaPropertyMap(Map.of(
          "hibernate.dialect", HapiFhirH2Dialect.class.getName(),
          "hibernate.hbm2ddl.auto", "create",
          "hibernate.search.enabled", "false"));
      return entities;
    }

    /** Before its jobs are scheduled. */
    @Bean
    static BeanPostProcessor hurry() {
      return new BeanPostProcessor() {
        @Override
        public Object postProcessBeforeInitialization(Object bean, String name) {
          if (bean instanceof JobMaintenanceServiceImpl jobs) {
            jobs.setScheduledJobFrequencyMillis(1_000);
          }
          return bean;
        }
      };
    }

    @Bean
    @Primary
    JpaTransactionManager transactionManager(EntityManagerFactory entities) {
      return new JpaTransactionManager(entities);
    }
  }

  public static void main(String[] arguments) throws Exception {
    List<String> words = List.of(arguments);
    int port = Integer.parseInt(words.get(words.indexOf("--port") + 1));
    isLenient = words.contains("--lenient");
    String address = "http://127.0.0.1:" + port + "/fhir";

    AnnotationConfigApplicationContext beans = new AnnotationConfigApplicationContext();
    beans.setAllowCircularReferences(true);
    beans.register(Beans.class);
    beans.refresh();

    RestfulServer fhir = new RestfulServer(beans.getBean(FhirContext.class));
    fhir.setServerAddressStrategy(new HardcodedServerAddressStrategy(address));
    fhir.setDefaultResponseEncoding(EncodingEnum.JSON);
    fhir.setPagingProvider(beans.getBean(DatabaseBackedPagingProvider.class));
    fhir.registerProviders(beans.getBean(ResourceProviderFactory.class).createProviders());
    fhir.registerProvider(beans.getBean(IJpaSystemProvider.class));
    fhir.registerProvider(beans.getBean(BulkDataExportProvider.class));
    fhir.setServerConformanceProvider(new JpaCapabilityStatementProvider(
        fhir,
        beans.getBean("mySystemDaoR4", IFhirSystemDao.class),
        beans.getBean(JpaStorageSettings.class),
        beans.getBean(ISearchParamRegistry.class),
        beans.getBean(IValidationSupport.class)));
    if (words.contains("--strict")) {
      RequestValidatingInterceptor judge = new RequestValidatingInterceptor();
      judge.setValidatorModules(List.of(beans.getBean(IValidatorModule.class)));
      judge.setFailOnSeverity(ResultSeverityEnum.ERROR);
      fhir.registerInterceptor(judge);
    }

    Server web = new Server(new InetSocketAddress(InetAddress.getLoopbackAddress(), port));
    ServletContextHandler paths = new ServletContextHandler();
    paths.addServlet(new ServletHolder(fhir), "/fhir/*");
    web.setHandler(paths);
    web.start();
    System.out.println("ready " + address);
    web.join();
  }
}
