#!/bin/bash
# Run once by the PostgreSQL image, when its data folder is new: one role and one database a service, nothing shared.
# The password is the one in the service's own database URL, so that it is kept in one place only.
set -eu

for service in intake review dispatch sla; do
    url=$(cat "/run/secrets/${service}_database_url")
    rest=${url#*://*:}
    GONGDAN_ROLE=gongdan_$service GONGDAN_PASSWORD=${rest%%@*} \
        psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv role GONGDAN_ROLE
\getenv password GONGDAN_PASSWORD
CREATE ROLE :"role" LOGIN PASSWORD :'password';
CREATE DATABASE :"role" OWNER :"role";
REVOKE CONNECT, TEMPORARY ON DATABASE :"role" FROM PUBLIC;
SQL
done

psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
    --command 'REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC'
