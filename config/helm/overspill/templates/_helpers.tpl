{{- define "overspill.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "overspill.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "overspill.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "overspill.selector" -}}
app.kubernetes.io/name: {{ include "overspill.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "overspill.labels" -}}
{{ include "overspill.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "overspill.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "overspill.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "overspill.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The policy file as an object. Its own text is what the pod gets. */}}
{{- define "overspill.file" -}}
{{- $file := fromYaml .Values.config -}}
{{- if hasKey $file "Error" -}}{{- fail (printf "config: not YAML: %s" $file.Error) -}}{{- end -}}
{{- if not $file.backends -}}{{- fail "config: no backends; give a policy file with --set-file config=FILE" -}}{{- end -}}
{{- toYaml $file -}}
{{- end -}}

{{/* The port of an address HOST:PORT, which must be reachable from outside of the pod. */}}
{{- define "overspill.port" -}}
{{- $address := .address | toString -}}
{{- if or (hasPrefix "127." $address) (hasPrefix "localhost:" $address) (hasPrefix "[::1]" $address) -}}
{{- fail (printf "config: listen.%s is %s, which nothing outside of the pod reaches; write 0.0.0.0:PORT" .name $address) -}}
{{- end -}}
{{- if not (regexMatch ":[1-9][0-9]{0,4}$" $address) -}}
{{- fail (printf "config: listen.%s is %s; write 0.0.0.0:PORT" .name $address) -}}
{{- end -}}
{{- regexFind "[0-9]+$" $address -}}
{{- end -}}

{{/* {http, admin, grpc}: the ports that the policy file listens on. */}}
{{- define "overspill.ports" -}}
{{- $listen := default dict (include "overspill.file" . | fromYaml).listen -}}
http: {{ include "overspill.port" (dict "name" "http" "address" (default "127.0.0.1:8000" $listen.http)) }}
admin: {{ include "overspill.port" (dict "name" "admin" "address" (default "127.0.0.1:8002" $listen.admin)) }}
{{- if $listen.grpc }}
grpc: {{ include "overspill.port" (dict "name" "grpc" "address" $listen.grpc) }}
{{- end }}
{{- end -}}

{{/* How the admin port is spoken to. */}}
{{- define "overspill.adminScheme" -}}
{{- ternary "HTTPS" "HTTP" (hasKey (include "overspill.file" . | fromYaml) "admin_tls") -}}
{{- end -}}

{{/* Whole seconds, rounded up, of a duration like 30s, 1m30s or 500ms. */}}
{{- define "overspill.seconds" -}}
{{- $milliseconds := 0.0 -}}
{{- $units := dict "ms" 1.0 "s" 1000.0 "m" 60000.0 "h" 3600000.0 "d" 86400000.0 -}}
{{- range regexFindAll "[0-9.]+(ms|s|m|h|d)" (toString .) -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $milliseconds = addf $milliseconds (mulf (float64 (trimSuffix $unit .)) (get $units $unit)) -}}
{{- end -}}
{{- divf $milliseconds 1000.0 | ceil | int64 -}}
{{- end -}}

{{/* {namespaces: […]}: where EndpointSlices are watched. */}}
{{- define "overspill.watched" -}}
{{- $here := .Release.Namespace -}}
{{- $found := list -}}
{{- range $name, $backend := (include "overspill.file" . | fromYaml).backends -}}
{{- with (default dict $backend.discover).kubernetes -}}
{{- if not .api_server -}}{{- $found = append $found (default $here .namespace) -}}{{- end -}}
{{- end -}}
{{- end -}}
namespaces: {{ $found | uniq | sortAlpha | toJson }}
{{- end -}}
