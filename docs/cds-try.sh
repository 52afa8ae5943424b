#!/usr/bin/env bash
# Asks for a card as an EHR would, or prints what an EHR publishes of its key. Needs openssl, curl and basenc.
#   openssl genrsa -out key.pem 2048                             a private key, for a try
#   docs/cds-try.sh --jwks key.pem > jwks.json                   its public half, for jwks_file
#   docs/cds-try.sh URL key.pem ISSUER PATIENT [USER]            URL as in https://gateway.example.org/cds-services/STUDY
set -euo pipefail
base64url() { basenc --base64url -w0 | tr -d '='; }
kid=try
if [ "${1:-}" = --jwks ]; then
  n=$(openssl rsa -in "$2" -noout -modulus | cut -d= -f2 | basenc --base16 -d | base64url)
  printf '{"keys":[{"kty":"RSA","use":"sig","alg":"RS384","kid":"%s","e":"AQAB","n":"%s"}]}\n' "$kid" "$n"
  exit
fi
url=$1 key=$2 issuer=$3 patient=$4 user=${5:-Practitioner/try} now=$(date +%s)
head=$(printf '{"alg":"RS384","typ":"JWT","kid":"%s"}' "$kid" | base64url)
# One token for one call: made out to this address, good for four minutes, with an id of its own.
claims=$(printf '{"iss":"%s","aud":"%s","iat":%d,"exp":%d,"jti":"%s"}' "$issuer" "$url" "$now" $((now + 240)) "$(openssl rand -hex 16)" | base64url)
signature=$(printf %s "$head.$claims" | openssl dgst -sha384 -sign "$key" -binary | base64url)
curl -sS "$url" -H "Authorization: Bearer $head.$claims.$signature" -H 'Content-Type: application/json' \
  -d "{\"hook\":\"patient-view\",\"hookInstance\":\"$(cat /proc/sys/kernel/random/uuid)\",\"context\":{\"userId\":\"$user\",\"patientId\":\"$patient\"}}"
