"""pgjdbc as Debian packages it, with its defaults, in one JVM."""

from drivers.runtimes import JDBC_JAR, java_classes, run_scenario
from drivers.target import Target

# A short life: no time to optimise, no threads for the collector.
JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx512m")


async def test_pgjdbc(target: Target) -> None:
    await run_scenario(target, ["java", *JVM, "-cp", f"{JDBC_JAR}:{java_classes()}", "Matrix"])
    await target.check_rest()
